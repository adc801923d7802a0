"""Reward backbones and the VAE at their published sizes with random weights, for benchmarks/full_size.py.

Of a backbone: a group through `extract`, a reference kept, the group scored against it, by nSSM and VSM and by every
measure. The whole reference counts as the object: the most cells, as the plan takes it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from full_size_meter import allocated, timed
from full_size_model import TEXT_TOKENS, fill
from torch import Tensor
from torch.nn import functional as F

from divrl_core.config import BackboneConfig
from divrl_core.models.features.base import LoadedBackbone, backbone_class
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import PipelineFolder
from divrl_core.models.published_configs import PUBLISHED_PARTS
from divrl_core.rewards.features import FeatureBatch
from divrl_core.rewards.measures import measures_of
from divrl_core.rewards.score import ReferenceFeatures, Scores, reference_features, score_images

SCREEN_CELLS = 16  # the pictures are this many soft squares a side
LIKENESS = 0.7  # share of the reference in each picture of its group
DECODED_AT_ONCE = 3


@dataclass(frozen=True, kw_only=True)
class BackboneCase:
    """A backbone and the group it sees.

    image_size_px: None = the backbone's own. few: the micro-batch that the plan's figures are of by default.
    size_px: side of the pictures before it resizes them.
    """

    name: str
    image_size_px: int | None = None
    pictures: int = 21
    few: int = 3
    size_px: int = 512

    def config(self) -> BackboneConfig:
        """The same as settings of a run; without a path the published model is planned, and made here."""
        return BackboneConfig(name=self.name, image_size_px=self.image_size_px)  # type: ignore[arg-type]


@dataclass(kw_only=True)
class MeasuredPart:
    """What a backbone or the VAE took: the better of the repeats in seconds, bytes by what they are of.

    defined: pictures of which each measure says something. off: by how much, at most, a measure of the first pictures
    differs from what the CPU makes of the same features.
    """

    case: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    defined: dict[str, int] = field(default_factory=dict)
    off: dict[str, float] = field(default_factory=dict)
    error: str = ""


BACKBONES_MEASURED = (
    BackboneCase(name="lite0"),
    BackboneCase(name="lite2"),
    BackboneCase(name="dinov2"),
    BackboneCase(name="clip"),
    BackboneCase(name="siglip"),
    BackboneCase(name="mtg", pictures=6),  # it sees one after the other, whatever the group
)
SMALL_PX = {"mtg": 64}  # for a trial on a CPU; the others:
SMALL_OTHERS_PX = 112


def small(case: BackboneCase) -> BackboneCase:
    """The same with few, small pictures, to try the script."""
    side = SMALL_PX.get(case.name, SMALL_OTHERS_PX)
    return BackboneCase(name=case.name, image_size_px=side, pictures=3, few=2, size_px=64)


def random_backbone(config: BackboneConfig, device: torch.device) -> LoadedBackbone:
    """The backbone as a plan makes it, with random weights, on the device."""
    with torch.device(device):
        backbone = backbone_class(config).without_weights(config)
    module = backbone.module
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device=device)
        fill(module)
        for buffer in module.buffers():
            buffer.zero_()
    return backbone


def soft_pictures(count: int, size_px: int, device: torch.device) -> Tensor:
    """Pictures (count, 3, S, S) in [0, 1] of soft squares; the first is the reference, the others have much of it."""
    generator = torch.Generator(device).manual_seed(0)
    drawn = torch.rand(count, 3, SCREEN_CELLS, SCREEN_CELLS, generator=generator, device=device)
    drawn[1:] = LIKENESS * drawn[:1] + (1 - LIKENESS) * drawn[1:]
    return F.interpolate(drawn, (size_px, size_px), mode="bicubic", align_corners=False).clamp(0, 1)


@torch.no_grad()
def measure_backbone(case: BackboneCase, device: torch.device, repeats: int) -> dict[str, Any]:
    """Extract, keep a reference, score."""
    result = MeasuredPart(case=asdict(case))
    before = allocated()
    backbone = random_backbone(case.config(), device)
    result.bytes["weights"] = allocated() - before
    shown = soft_pictures(case.pictures + 1, case.size_px, device)
    features = _measure_extract(result, backbone, shown[1:], case, device, repeats)
    reference = _measure_reference(result, backbone, shown[:1], device, repeats)
    few = _measure_scores(result, backbone, features, reference, case, device, repeats)
    seen = backbone.extract(shown[:1]).to("cpu")
    result.off = _off_the_cpu(few, seen, features.select(slice(0, case.few)).to("cpu"), backbone)
    return asdict(result)


def measure_decoding(
    folder: PipelineFolder, size_px: int, pictures: int, device: torch.device, repeats: int
) -> dict[str, Any]:
    """Decoding a group by the full VAE with random weights, a micro-batch at a time."""
    result = MeasuredPart(case={"name": "VAE", "pictures": pictures, "size_px": size_px})
    adapter = FluxAdapter(folder, dtype=torch.bfloat16, device=device, max_text_tokens=TEXT_TOKENS)
    before = allocated()
    adapter._codec.vae = _random_vae(device)
    result.bytes["weights"] = allocated() - before
    tokens = torch.randn(pictures, *adapter.latent_shape(size_px, size_px), device=device)

    def decode(count: int) -> list[Tensor]:
        parts = tokens[:count].split(DECODED_AT_ONCE)
        return [adapter.decode(part, size_px, size_px) for part in parts]

    whole = timed(lambda: decode(pictures), device, repeats)
    result.seconds["decode"] = min(whole.seconds)
    result.bytes["working"] = timed(lambda: decode(DECODED_AT_ONCE), device, 1).working
    return asdict(result)


def _random_vae(device: torch.device) -> Any:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(PUBLISHED_PARTS["vae"])
    vae = vae.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    fill(vae)
    return vae.to(memory_format=torch.channels_last)


def _measure_extract(
    result: MeasuredPart,
    backbone: LoadedBackbone,
    pictures: Tensor,
    case: BackboneCase,
    device: torch.device,
    repeats: int,
) -> FeatureBatch:
    """Features of the group; working memory has the pictures in it, as in the plan."""
    whole = timed(lambda: backbone.extract(pictures), device, repeats)
    few = timed(lambda: backbone.extract(pictures[: case.few]), device, 1)
    result.seconds["extract"] = min(whole.seconds)
    for name, found, count in (("all", whole, case.pictures), ("few", few, case.few)):
        result.bytes[f"working, {name}"] = (
            found.working + pictures[:count].numel() * 4 if found.working else 0
        )
    return whole.made


def _measure_reference(
    result: MeasuredPart, backbone: LoadedBackbone, picture: Tensor, device: torch.device, repeats: int
) -> ReferenceFeatures:
    """The reference, ready to be compared with, and the bytes that stay; with what nssm_cropped needs, and without."""

    def keep(with_crop: bool) -> ReferenceFeatures:
        return reference_features(
            backbone.extract(picture), None, backbone.settings.score, with_crop=with_crop
        )

    result.seconds["reference"] = min(timed(lambda: keep(True), device, repeats).seconds)
    for name, with_crop in (("reference", False), ("with crop", True)):
        before = allocated()
        reference = keep(with_crop)
        result.bytes[name] = allocated() - before
        if not with_crop:
            del reference
    return reference


def _measure_scores(
    result: MeasuredPart,
    backbone: LoadedBackbone,
    features: FeatureBatch,
    reference: ReferenceFeatures,
    case: BackboneCase,
    device: torch.device,
    repeats: int,
) -> Scores:
    """The group by nSSM and VSM alone, and by every measure that such features have; the few pictures' measures."""
    more = measures_of(features)

    def score(count: int, names: tuple[str, ...]) -> Scores:
        return score_images(features.select(slice(0, count)), reference, backbone.settings.score, more=names)

    plain = timed(lambda: score(case.pictures, ()), device, repeats)
    whole = timed(lambda: score(case.pictures, more), device, repeats)
    few = timed(lambda: score(case.few, more), device, 1)
    result.seconds |= {"score": min(plain.seconds), "score with every measure": min(whole.seconds)}
    result.bytes |= {"scoring, few": few.working, "scoring, all": whole.working}
    for name, values in whole.made.by_name.items():
        result.defined[name] = int(torch.isfinite(values).sum())
    return few.made


def _off_the_cpu(
    scores: Scores, reference: FeatureBatch, features: FeatureBatch, backbone: LoadedBackbone
) -> dict[str, float]:
    """The largest difference by measure from the same made on the CPU; infinite where one alone is defined."""
    settings = backbone.settings.score
    kept = reference_features(reference, None, settings)
    off = {}
    for name, there in score_images(features, kept, settings, more=measures_of(features)).by_name.items():
        here = scores.by_name[name].cpu()
        both = here.isfinite() & there.isfinite()
        is_same = bool((here.isfinite() == there.isfinite()).all())
        apart = (here - there)[both].abs()
        off[name] = float(apart.max() if len(apart) else 0.0) if is_same else float("inf")
    return off
