"""Where points of a picture look in its reference while the picture is made: a sheet, and the numbers behind it.

The sanity check of masked conditional flow matching (arXiv:2511.08061): a model that has learnt to read its reference
attends to it strongly, and at places of the same meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.files import write_atomic_json
from .attention_drawing import draw_attention
from .attention_reading import Point, Reading, TokenGrid, read_attention
from .comparison import write_picture, write_sheet
from .lora_request import guidance_of, is_letterboxed, model_of, open_model, size_of_pictures
from .sample import check_request, load_reference, lora_file_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import SegmenterConfig
    from ..models.flux import FluxAdapter

logger = logging.getLogger("divrl")

SHEET_NAME, NUMBERS_NAME = "attention.jpg", "attention.json"
TARGET_NAME, REFERENCE_NAME = "target.png", "reference.png"
DEFAULT_PLACES = ((3 / 8, 1 / 3), (5 / 8, 1 / 3), (1 / 2, 1 / 2), (3 / 8, 2 / 3), (5 / 8, 2 / 3))


def attention_sheet(
    *,
    model: str | None = None,
    reference: Path,
    mask: Path | None = None,
    segmenter: SegmenterConfig | None = None,
    prompt: str,
    output: Path,
    lora: Path | None = None,
    seed: int = 0,
    steps: int = 28,
    time: float = 0.5,
    blocks: Sequence[str] = (),
    points: Sequence[Point] = (),
    guidance_scale: float | None = None,
    size_px: tuple[int, int] | int | None = None,
    layout: str | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    revision: str | None = None,
) -> Path:
    """Makes a picture, reads its attention to the reference on the way, and draws it; the sheet's path is returned.

    The picture is the one that `sample_sheet` makes of the same seed. The files in `output`: attention.jpg,
    attention.json (the numbers), target.png (the picture), and reference.png (the reference as the model sees it, to
    whose pixels the numbers' places belong).

    Args: as in `sample_sheet`, and seed: of the picture. time: the step nearest to it is read, in [0, 1], 1 is noise.
    blocks: names such as "double.0" (models/attention_probe.py), a row each; none = the first, the middle one and
    the last. points: (x, y) pixels of the picture, a column each; none = five spread over its middle.

    Raises FileNotFoundError or ValueError, in one line, before any weights are read where that is possible.
    """
    check_request(prompt, (seed,), None, (), steps, size_px)
    if not 0 <= time <= 1:
        raise ValueError(f"time must lie in [0, 1] (1 = noise), got {time:g}")
    lora_path = None if lora is None else lora_file_of(lora)
    from ..models.lora_apply import load_for_inference
    from ..models.lora_file import read_lora

    lora_file = None if lora_path is None else read_lora(lora_path)
    model = model_of(model, lora_file)
    adapter = open_model(model, lora_file, layout=layout, dtype=dtype, device=device, revision=revision)
    height, width = size = size_of_pictures(size_px, adapter, lora_file)
    chosen = _checked_blocks(adapter, blocks)
    places = checked_points(points, size)
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
    if lora_file is not None:
        load_for_inference(adapter.transformer, lora_file)

    guidance = guidance_of(guidance_scale, lora_file)
    reading = read_attention(
        adapter,
        conditioning,
        size=size,
        seed=seed,
        steps=steps,
        guidance=guidance,
        time=time,
        blocks=chosen,
        points=places,
    )
    asked = {
        "model": model,
        "lora": lora_path,
        "layout": adapter.layout,
        "prompt": prompt,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
    }
    return _write(output, asked, reading, subject.image, TokenGrid.of(adapter, size).token_px)


def _checked_blocks(adapter: FluxAdapter, asked: Sequence[str]) -> tuple[str, ...]:
    from ..models.attention_probe import block_names, check_blocks, default_blocks
    from ..models.layout import NO_REFERENCE

    if adapter.layout == NO_REFERENCE:
        raise ValueError('layout "none" leaves the reference out: there is no attention to it to look at')
    names = block_names(adapter.folder)
    chosen = tuple(asked) or default_blocks(names)
    check_blocks(chosen, names)
    return chosen


def checked_points(asked: Sequence[Point], size: tuple[int, int]) -> tuple[Point, ...]:
    """The points asked for, else five over the middle of a picture of (height, width). Raises ValueError outside."""
    height, width = size
    points = tuple(asked) or tuple((round(width * x), round(height * y)) for x, y in DEFAULT_PLACES)
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"point {x},{y} lies outside the picture of {width} x {height} px: "
                f"x is 0 to {width - 1}, y is 0 to {height - 1}"
            )
    return points


def _write(output: Path, asked: dict[str, Any], reading: Reading, reference: Tensor, token_px: int) -> Path:
    height, width = reading.picture.shape[1:]
    numbers = asked | {
        "step": reading.step,
        "time": reading.time,
        "width_px": width,
        "height_px": height,
        "token_px": token_px,
        "maps": [asdict(one) for one in reading.maps],
    }
    write_picture(output / TARGET_NAME, reading.picture)
    write_picture(output / REFERENCE_NAME, reference)
    write_atomic_json(output / NUMBERS_NAME, numbers)
    lora, at = asked["lora"], f"step {reading.step + 1} of {asked['steps']}, t = {reading.time:.2f}"
    sheet = draw_attention(
        target=reading.picture,
        reference=reference,
        maps=reading.maps,
        token_px=token_px,
        title="Where the picture looks in its reference",
        prompt=asked["prompt"],
        facts=f"{asked['model']}{f' with {lora.stem}' if lora else ''} · layout {asked['layout']} · "
        f"seed {asked['seed']} · {at}",
    )
    path = write_sheet(output / SHEET_NAME, sheet)
    logger.info("read the attention at %s; wrote %s", at, path)
    return path
