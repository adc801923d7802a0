"""Train the reward's two heads on exact correspondences: where the same place is, and whether it looks the same.

Of a picture's cell j and a reference's cells i, the semantic head learns
    softmax_i(cos(q_j, k_i) / T), with one more class of logit tau / T for "nowhere",
against the share of j's surface that is seen in each i (InfoNCE with a dustbin), whatever the colours are. The visual
head learns whether j was left as it is in truth, at the reference's cell that the semantic head finds:
    sigmoid((cos(v_j, v_i) - tau) / T).
tau is .5 for both; the thresholds in use were chosen afterwards (docs/calibration.md). Minutes on two cores, in one go.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from ..models.features.efficientnet_lite import EfficientNetLite
from ..models.features.lite0 import Lite0Backbone
from ..models.features.lite0_heads import CALIBRATED, CorrespondenceHeads, head_inputs
from ..models.flux import FluxAdapter
from .head_pairs import HeadPairs, draw_shards

Progress = Callable[[str], None]
TAU = 0.5


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """How the heads are trained."""

    shards: int = 39
    pairs_per_shard: int = 128
    steps: int = 2000
    batch_size: int = 24
    cells: int = 224  # of a picture's 576 that a step asks about; a figure covers some 130
    lr: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.1  # of whole channels
    warmup_steps: int = 50
    semantic_temperature: float = 0.07
    visual_temperature: float = 0.1
    coded_share: float = 0.6  # of the pictures that went through the pocket's VAE, as generated ones do
    same_below: float = 0.02  # mean difference of a cell's figure from the truth that is none
    changed_above: float = 0.07  # and that is one; cells between the two teach nothing
    floor_weight: float = 0.2  # of cells without figure in the semantic loss, beside those with
    average_decay: float = 0.995
    mixed_precision: Literal["no", "bf16"] = "no"  # "bf16": products of VAE and heads
    report_every_steps: int = 100


class RoundTrip(Protocol):
    """Pictures (B, 3, H, W) in [0, 1] through a VAE and back."""

    def __call__(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class SeenPairs:
    """Pairs as the frozen network sees them: packed inputs of the heads (N, 320, g/2, g/2), and what is true."""

    references: Tensor
    pictures: Tensor
    truth: HeadPairs


def train_heads(
    output: Path,
    *,
    recipe: HeadRecipe | None = None,
    seed: int = 0,
    threads: int | None = None,
    model: str = "pocket",
    report: Progress = lambda message: None,
) -> Path:
    """Draw the pairs, train both heads, and write OUTPUT/model.safetensors (float16); pairs stay in OUTPUT/pairs.

    `model` is the pocket pipeline whose VAE most of the pictures go through.
    """
    recipe = recipe or HeadRecipe()
    if threads is not None:
        torch.set_num_threads(threads)
    network = Lite0Backbone.load().network
    round_trip = vae_round_trip(FluxAdapter.load(model), recipe.mixed_precision)
    grid = CALIBRATED.image_size_px // 8
    shards = []
    drawn = draw_shards(
        output / "pairs",
        recipe.shards,
        grid=grid,
        seed=seed,
        workers=torch.get_num_threads(),
        pairs=recipe.pairs_per_shard,
    )
    for number, pairs in enumerate(drawn):
        shards.append(see(network, round_trip, pairs, recipe, seed=seed + number))
        report(f"drawn and seen {number + 1} of {recipe.shards} shards")
    heads = fit(shards, recipe, seed=seed, report=report)
    weights = {name: value.half().contiguous() for name, value in heads.state_dict().items()}
    fresh, path = output / "model.tmp", output / "model.safetensors"
    save_file(weights, fresh, metadata={"format": "pt"})
    fresh.rename(path)
    return path


def vae_round_trip(adapter: FluxAdapter, mixed_precision: Literal["no", "bf16"]) -> RoundTrip:
    """The adapter's VAE, without gradients."""

    @torch.no_grad()
    def trip(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16"):
            return adapter.decode(adapter.encode_images(images), *images.shape[-2:]).float()

    return trip


def see(
    network: EfficientNetLite, round_trip: RoundTrip, pairs: HeadPairs, recipe: HeadRecipe, *, seed: int
) -> SeenPairs:
    """The heads' inputs of a shard, in bfloat16 to spare memory."""
    coded = (
        torch.rand(len(pairs.pictures), generator=torch.Generator().manual_seed(seed)) < recipe.coded_share
    )
    seen: dict[str, list[Tensor]] = {"references": [], "pictures": []}
    for start in range(0, len(coded), 32):
        rows = slice(start, start + 32)
        references, pictures = (
            images[rows].permute(0, 3, 1, 2).float() / 255 for images in (pairs.references, pairs.pictures)
        )
        where = coded[rows]
        if where.any():
            pictures[where] = round_trip(pictures[where]).clamp(0, 1)
        for name, images in (("references", references), ("pictures", pictures)):
            seen[name].append(head_inputs(network, images, CALIBRATED.image_size_px).bfloat16())
    return SeenPairs(torch.cat(seen["references"]), torch.cat(seen["pictures"]), pairs)


def fit(shards: list[SeenPairs], recipe: HeadRecipe, *, seed: int, report: Progress) -> CorrespondenceHeads:
    """The moving average of heads trained on the pairs; a pure function of its arguments for a number of threads."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = CorrespondenceHeads(dropout=recipe.dropout)
        convert_conv2d_weight_memory_format(heads, torch.channels_last)
        _standardise(heads, shards[0])
        average = copy.deepcopy(heads)
        optimizer = torch.optim.AdamW(heads.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        references, pictures = (
            torch.cat([getattr(shard, name) for shard in shards]) for name in ("references", "pictures")
        )
        truth = HeadPairs.joined([shard.truth for shard in shards])
        for step in range(recipe.steps):
            rows = torch.randint(len(references), (recipe.batch_size,))
            losses = head_losses(
                heads,
                references[rows].float(),
                pictures[rows].float(),
                HeadPairs(*(values[rows] for values in vars(truth).values())),
                recipe,
            )
            optimizer.param_groups[0]["lr"] = recipe.lr * _rate(recipe, step)
            optimizer.zero_grad()
            (losses[0] + losses[1]).backward()
            optimizer.step()
            decay = min(recipe.average_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                for kept, weight in zip(average.parameters(), heads.parameters(), strict=True):
                    kept.lerp_(weight, 1 - decay)
            if (step + 1) % recipe.report_every_steps == 0:
                report(
                    f"heads {step + 1} of {recipe.steps}: semantic {losses[0]:.3f}, visual {losses[1]:.3f}"
                )
    return average.eval().requires_grad_(False)


def _rate(recipe: HeadRecipe, step: int) -> float:
    """The learning rate's share of its largest: up in a line, down in half a cosine."""
    return min(1, (step + 1) / recipe.warmup_steps) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def head_losses(
    heads: CorrespondenceHeads, references: Tensor, pictures: Tensor, truth: HeadPairs, recipe: HeadRecipe
) -> tuple[Tensor, Tensor]:
    """Semantic and visual loss of a batch of pairs (the formulas above)."""
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision == "bf16"):
        semantic, visual = heads(torch.cat([references, pictures]))
    (key, query), (value, look) = (
        F.normalize(side.float().flatten(2).mT, dim=-1).chunk(2) for side in (semantic, visual)
    )
    # every cell of the figure and as many of the floor as there is room for
    cells = (truth.figure_share.sign() + torch.rand(truth.figure_share.shape)).topk(recipe.cells).indices
    query, look = (_rows(side, cells) for side in (query, look))
    figure_share, changed = truth.figure_share.gather(1, cells), truth.changed.gather(1, cells)
    match_cell, match_share = _rows(truth.match_cell, cells), _rows(truth.match_share, cells)
    is_object = truth.object_share >= 0.5  # as a reward's mask has it
    # (B, picture cells, reference cells)
    cosine = (query @ key.mT).masked_fill(~is_object[:, None], -torch.inf)

    # Where is it? A cell of which little can be seen again has nothing to find.
    target = match_share * is_object.gather(1, match_cell.flatten(1)).view_as(match_share)
    found = target.sum(-1)
    seen_again = found / figure_share.clamp_min(1e-6)
    is_figure = figure_share >= 0.3
    is_found = is_figure & (seen_again >= 0.4)
    is_hidden, is_floor = is_figure & (seen_again < 0.1), figure_share < 0.1
    nowhere = torch.full_like(cosine[..., :1], TAU)
    log_share = (torch.cat([cosine, nowhere], dim=-1) / recipe.semantic_temperature).log_softmax(-1)
    at_target = log_share.gather(-1, match_cell).masked_fill(target == 0, 0)
    where = -(target * at_target).sum(-1) / found.clamp_min(1e-6)
    weight = is_found.float() + is_hidden + recipe.floor_weight * is_floor
    semantic_loss = (weight * torch.where(is_found, where, -log_share[..., -1])).sum() / weight.sum()

    # Does it look the same there? Asked of every cell that a reward would match, also where the truth has no match (the
    # other arm, say): what was left as it is should pass there too.
    best, match = cosine.detach().max(-1)
    at_match = (look * _rows(value, match)).sum(-1)
    is_same, is_changed = changed < recipe.same_below, changed > recipe.changed_above
    asked = (figure_share >= 0.1) & (best > TAU) & (is_same | is_changed)
    each = F.binary_cross_entropy_with_logits(
        (at_match - TAU) / recipe.visual_temperature, is_same.float(), reduction="none"
    )
    # as much weight on changed cells as on the rest
    shares = [asked & kind for kind in (is_same, is_changed)]
    visual_loss = sum((each * share).sum() / share.sum().clamp_min(1) for share in shares) / 2
    return semantic_loss, torch.as_tensor(visual_loss)


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Of values (B, N, C) the rows (B, K): (B, K, C)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))


@torch.no_grad()
def _standardise(heads: CorrespondenceHeads, shard: SeenPairs) -> None:
    """Take the statistics of the inputs from one shard and keep them."""
    norms = [module for module in heads.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    heads.train()
    heads(torch.cat([shard.references, shard.pictures]).float())
    for norm in norms:
        norm.eval()
