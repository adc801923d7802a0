"""Pictures on request: one reference and prompt, several seeds, a LoRA at one or several strengths, and a
sheet.

Each picture is made in a batch of its own from noise that belongs to its seed alone, so seed k is the same
picture whatever else is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

from .comparison import write_picture, write_sheet
from .lora_request import guidance_of, is_letterboxed, model_of, open_model, size_of_pictures
from .sheets import ComparisonRow, comparison_sheet, score_caption

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from ..config import SegmenterConfig
    from ..models.conditioning import Conditioning
    from ..models.flux import FluxAdapter
    from ..models.lora_file import LoraFile
    from ..training.pictures import Picture
    from ..training.references import Reference

logger = logging.getLogger("divrl")

SHEET_NAME = "sheet.jpg"
MASK_WORDS = {"alpha": "its alpha channel", "whole picture": "the whole picture"}
Decoded = TypeVar("Decoded")


def sample_sheet(
    *,
    model: str | None = None,
    reference: Path,
    mask: Path | None = None,
    segmenter: SegmenterConfig | None = None,
    prompt: str,
    seeds: Sequence[int] = (0, 1, 2, 3),
    output: Path,
    lora: Path | None = None,
    strengths: Sequence[float] = (1.0,),
    steps: int = 28,
    guidance_scale: float | None = None,
    size_px: tuple[int, int] | int | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
    with_scores: bool = False,
) -> Path:
    """Makes a picture for each strength and seed, and a contact sheet whose path is returned.

    With a LoRA the base model's pictures come first, so that they stand beside the LoRA's. The files in
    `output` are sheet.jpg, base_seed-0.png, strength-1_seed-0.png, ...

    Args: model: "pocket", "pocket-text-to-image", a folder or a hub id; None = what the LoRA was trained on, else
    pocket. reference: the picture of the subject, framed as in training. mask: the subject in it; None = its alpha
    channel, else what `segmenter` finds in it, else the whole picture. prompt: what to show. seeds: one picture each,
    0 or above, all different. lora: a LoRA file, or a run folder (its best LoRA); None = the model as it is.
    strengths: how much of the LoRA; 0 is the base model, 1 the LoRA as trained. steps: sampling steps.
    guidance_scale: the embedded guidance; None = what a cfm LoRA was trained with, else 2.5. size_px: side of the
    pictures, or (height, width); None = the LoRA's, else the model's own. layout: where the reference lies; None = as
    the LoRA was trained, else the pipeline's own. with_scores: write nSSM and VSM below each picture, by the default
    reward backbone.

    Raises FileNotFoundError or ValueError, in one line, before the model is read where that is possible.
    """
    check_request(prompt, seeds, lora, strengths, steps, size_px)
    lora_path = None if lora is None else lora_file_of(lora)
    from ..models.lora_file import read_lora

    lora_file = None if lora_path is None else read_lora(lora_path)
    model = model_of(model, lora_file)
    adapter = open_model(model, lora_file, layout=layout, dtype=dtype, device=device, revision=revision)
    guidance = guidance_of(guidance_scale, lora_file)
    height, width = size_of_pictures(size_px, adapter, lora_file)
    subject = load_reference(
        reference,
        mask,
        height,
        width,
        is_whole=is_letterboxed(adapter.layout, lora_file),
        segmenter=segmenter,
        device=device,
    )
    conditioning = adapter.encode([prompt], subject.image[None].to(device))
    adapter.drop_encoders()

    chosen = list(dict.fromkeys([0.0, *strengths])) if lora_file else [0.0]
    names = {strength: _name_of(strength, lora_file) for strength in chosen}
    results: dict[str, list[Tensor]] = {}
    with tqdm(total=len(chosen) * len(seeds), desc="pictures", unit="picture") as progress:
        for strength in chosen:
            _set_strength(adapter, lora_file, strength)
            results[names[strength]] = [
                _make(adapter, conditioning, seed, (height, width), steps, guidance, progress.update)
                for seed in seeds
            ]
    captions = _captions(results, subject) if with_scores else {}
    title = f"{model} · {steps} steps" + (f" · {lora_path.stem}" if lora_path else "")
    return _write(output, prompt, subject, results, captions, seeds, title)


def load_reference(
    reference: Path,
    mask: Path | None,
    height: int,
    width: int,
    *,
    is_whole: bool = False,
    segmenter: SegmenterConfig | None = None,
    device: str = "cpu",
) -> Reference:
    """The reference and its mask at that size, framed as in training.

    A square is cropped from the middle where that keeps the object; with `is_whole` (the layouts of masked CFM), and
    for other sizes, the picture is letterboxed (models/panels.py). The mask is chosen as in training (`segmenter`
    makes it of a picture that brings none, on `device`, and is freed), and the log says which it is. Raises
    FileNotFoundError or ValueError with the path when a file is missing, damaged or of another size than its mask, or
    when the mask is empty.
    """
    from ..training.picture_references import WHOLE_PICTURE, choose_mask
    from ..training.pictures import decode_mask, decode_picture, frame

    picture = _decoded(decode_picture, reference)
    mask_file = None if mask is None else _decoded(decode_mask, mask)
    try:
        inside, source = choose_mask(picture, mask_file)
        if source == WHOLE_PICTURE and segmenter is not None:
            inside, source = _found_by(segmenter, picture, device), f"made by {segmenter.model}"
        subject = (
            _letterboxed(picture.rgb, inside, height, width)
            if is_whole or height != width
            else frame(picture.rgb, inside, height)
        )
    except ValueError as error:
        raise ValueError(f"{mask or reference}: {error}") from error
    where = f"the file {mask}" if source == "files" else MASK_WORDS.get(source, source)
    logger.info("%s: the mask is %s", reference, where)
    return subject


def _found_by(segmenter: SegmenterConfig, picture: Picture, device: str) -> NDArray[np.bool_]:
    from ..models.segmentation.base import load_segmenter
    from ..training.model_masks import REMEDY, mask_of_picture

    mask = mask_of_picture(load_segmenter(segmenter, device=device), picture)
    if not mask.any():
        raise ValueError(f"{segmenter.model} found no subject in it: {REMEDY}")
    return mask


def _letterboxed(rgb: Image.Image, mask: NDArray[np.bool_], height: int, width: int) -> Reference:
    import torch

    from ..models.panels import letterbox, letterbox_mask
    from ..training.references import Reference

    image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1).float() / 255
    placed = letterbox_mask(torch.from_numpy(mask), height, width)
    if not placed.any():
        raise ValueError(
            f"the object vanishes at {width} x {height} px: its mask has {int(mask.sum())} pixels"
        )
    return Reference(image=letterbox(image, height, width), mask=placed)


def lora_file_of(path: Path) -> Path:
    """The LoRA file itself, or of a run folder its best LoRA, else its last. Raises FileNotFoundError."""
    if path.is_file():
        return path
    for name in ("best", "last"):
        file = path / "lora" / f"{name}.safetensors"
        if file.is_file():
            return file
    raise FileNotFoundError(f"{path}: no LoRA file and no run folder with lora/best.safetensors in it")


def check_request(
    prompt: str,
    seeds: Sequence[int],
    lora: Path | None,
    strengths: Sequence[float],
    steps: int,
    size_px: tuple[int, int] | int | None,
) -> None:
    if not prompt.strip():
        raise ValueError("prompt is empty; say what the picture is to show")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds must be different whole numbers from 0 up, got {list(seeds)}")
    if lora is not None and not strengths:
        raise ValueError("strengths is empty; give at least one, 1 is the LoRA as trained")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    for side in size_px if isinstance(size_px, tuple) else (size_px,):
        if side is not None and (side < 16 or side % 16):
            raise ValueError(f"size_px must be multiples of 16 from 16 up, got {side}")


def _decoded(decode: Callable[[Path], Decoded], path: Path) -> Decoded:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture")
    try:
        return decode(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _name_of(strength: float, lora: LoraFile | None) -> str:
    return "base" if lora is None or strength == 0 else f"strength {strength:g}"


def _set_strength(adapter: FluxAdapter, lora: LoraFile | None, strength: float) -> None:
    if lora is not None:
        from ..models.lora_apply import load_for_inference

        load_for_inference(adapter.transformer, lora, strength)


def _make(
    adapter: FluxAdapter,
    conditioning: Conditioning,
    seed: int,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    advance: Callable[[], object],
) -> Tensor:
    """The picture (3, H, W) of one seed, in [0, 1]."""
    from ..flow.noise import keyed_noise

    height, width = size
    noise = keyed_noise(adapter.latent_shape(height, width), seed=seed, stream="sample")[None]
    tokens = adapter.sample(conditioning, noise, height=height, width=width, steps=steps, guidance=guidance)
    picture = adapter.decode(tokens, height, width)[0].cpu()
    advance()
    return picture


def _captions(results: dict[str, list[Tensor]], subject: Reference) -> dict[str, list[str]]:
    """nSSM and VSM of every picture, as captions."""
    import torch

    from ..config import BackboneConfig
    from ..models.features.base import load_backbone
    from ..rewards.score import reference_features, score_images

    backbone = load_backbone(BackboneConfig())
    settings = backbone.settings.score
    prepared = reference_features(backbone.extract(subject.image[None]), subject.mask, settings)
    captions = {}
    for name, pictures in results.items():
        scores = score_images(backbone.extract(torch.stack(pictures)), prepared, settings)
        pairs = zip(scores.nssm.tolist(), scores.vsm.tolist(), strict=True)
        captions[name] = [score_caption(nssm, vsm) for nssm, vsm in pairs]
    return captions


def _write(
    output: Path,
    prompt: str,
    subject: Reference,
    results: dict[str, list[Tensor]],
    captions: dict[str, list[str]],
    seeds: Sequence[int],
    title: str,
) -> Path:
    count = 0
    for name, pictures in results.items():
        for seed, picture in zip(seeds, pictures, strict=True):
            write_picture(output / f"{name.replace(' ', '-')}_seed-{seed}.png", picture)
            count += 1
    row = ComparisonRow(label=prompt, reference=subject.image, results=results, captions=captions)
    sheet = comparison_sheet([row], seeds=[f"seed {seed}" for seed in seeds], title=title)
    path = write_sheet(output / SHEET_NAME, sheet)
    logger.info("wrote %d pictures and %s", count, path)
    return path
