"""Where points of a picture look in its reference, while the picture is made: a sheet, and the numbers behind it.

The sanity check of masked conditional flow matching (arXiv:2511.08061): a model that has learnt to read its reference
attends to it strongly, and at places of the same meaning. The picture is the one that `sample_sheet` makes of the same
seed; at one step of its sampling the model's attention is read on the way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..training.files import write_atomic_json
from .comparison import write_picture, write_sheet
from .sample import _check_request, _guidance, _layout, _size, load_reference, lora_file_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention_probe import BlockAttention
    from ..models.conditioning import Conditioning
    from ..models.flux import FluxAdapter
    from ..models.lora_file import LoraFile

logger = logging.getLogger("divrl")

SHEET_NAME, NUMBERS_NAME = "attention.jpg", "attention.json"
TARGET_NAME, REFERENCE_NAME = "target.png", "reference.png"
DEFAULT_PLACES = ((1 / 3, 1 / 3), (2 / 3, 1 / 3), (1 / 2, 1 / 2), (1 / 3, 2 / 3), (2 / 3, 2 / 3))

Point = tuple[int, int]
"""x and y in pixels, from the upper left corner."""


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Where one point of the target looks in one block; mean over heads."""

    block: str
    point: Point
    """In the target."""
    text_share: float
    """Of the point's attention, what goes to the prompt; the three shares sum to 1."""
    target_share: float
    """To the target itself."""
    reference_share: float
    """To the reference."""
    peak: Point
    """Middle of the reference's token that gets the most, in pixels of the reference as the model sees it."""
    rows: list[list[float]]
    """Attention to each token of the reference, row by row; sums to `reference_share`."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A finished picture, and what was read at one step on its way."""

    picture: Tensor
    """(3, H, W) in [0, 1]."""
    step: int
    """From 0."""
    time: float
    """In [0, 1], 1 is noise."""
    attention: dict[str, BlockAttention]


def attention_sheet(
    *,
    model: str = "pocket",
    reference: Path,
    mask: Path | None = None,
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

    The files in `output`: attention.jpg, attention.json (the numbers), target.png (the picture), and reference.png
    (the reference as the model sees it, to which the numbers' places belong).

    Args: as in `sample_sheet`, and seed: of the picture. time: the step nearest to it is probed, in [0, 1], 1 is noise.
    blocks: names such as "double.0" (models/attention_probe.py), a row each; none = the first, the middle one and
    the last. points: places in the picture, a column each; none = five spread over its middle.

    Raises FileNotFoundError or ValueError, in one line, before any weights are read where that is possible.
    """
    _check_request(prompt, (seed,), None, (), steps, size_px)
    if not 0 <= time <= 1:
        raise ValueError(f"time must lie in [0, 1] (1 = noise), got {time:g}")
    lora_path = None if lora is None else lora_file_of(lora)
    from ..models.flux import FluxAdapter
    from ..models.lora_file import read_lora
    from .attention_drawing import draw_attention

    lora_file = None if lora_path is None else read_lora(lora_path)
    adapter = FluxAdapter.load(
        model, dtype=dtype, device=device, revision=revision, layout=_layout(layout, lora_file)
    )
    height, width = size = _size(size_px, adapter.default_image_size_px)
    chosen = _checked_blocks(adapter, blocks)
    places = _checked_points(points, size)
    subject = load_reference(reference, mask, height, width, is_whole=adapter.layout != "kontext")
    conditioning = adapter.encode([prompt], subject.image[None].to(device))
    adapter.drop_encoders()
    _load_lora(adapter, lora_file)

    guidance = _guidance(guidance_scale, lora_file)
    tokens = [_token_of(adapter, place, size) for place in places]
    probed = sample_probed(adapter, conditioning, size, seed, steps, guidance, time, chosen, tokens)
    maps = _maps(adapter, probed.attention, places, size)

    write_picture(output / TARGET_NAME, probed.picture)
    write_picture(output / REFERENCE_NAME, subject.image)
    said = {
        "model": model, "lora": lora_path and str(lora_path), "layout": adapter.layout, "prompt": prompt, "seed": seed,
        "steps": steps, "step": probed.step, "time": probed.time, "guidance": guidance, "width_px": width,
        "height_px": height, "token_px": _token_px(adapter, size),
    }  # fmt: skip
    write_atomic_json(output / NUMBERS_NAME, said | {"maps": [asdict(one) for one in maps]})
    name = model + (f" with {lora_path.stem}" if lora_path else "")
    sheet = draw_attention(
        target=probed.picture,
        reference=subject.image,
        maps=maps,
        title=f"Attention to the reference · {name}",
        prompt=prompt,
        facts=f"layout {adapter.layout}, seed {seed}, step {probed.step + 1} of {steps}, t = {probed.time:.2f}",
        token_px=_token_px(adapter, size),
    )
    path = write_sheet(output / SHEET_NAME, sheet)
    logger.info("probed step %d of %d (t = %.3f); wrote %s", probed.step + 1, steps, probed.time, path)
    return path


def sample_probed(
    adapter: FluxAdapter,
    conditioning: Conditioning,
    size: tuple[int, int],
    seed: int,
    steps: int,
    guidance: float,
    time: float,
    blocks: Sequence[str],
    target_tokens: Sequence[int],
) -> Probed:
    """The picture of one seed as `FluxAdapter.sample` makes it, probed at the step whose time is nearest to `time`."""
    import torch

    from ..flow.noise import keyed_noise
    from ..flow.sde import ode_step
    from ..models.attention_probe import attention_probe

    height, width = size
    noise = keyed_noise(adapter.latent_shape(height, width), seed=seed, stream="sample")[None]
    times = adapter.sigmas(steps, height, width).tolist()
    probed_step = min(range(steps), key=lambda step: abs(times[step] - time))
    given, ids = conditioning.to(adapter.device), adapter.target_ids(height, width)
    x_t = noise.to(adapter.device, torch.float32)
    found: dict[str, BlockAttention] = {}
    with torch.no_grad():
        for step, (t, t_next) in enumerate(pairwise(times)):
            probe = attention_probe(
                adapter.transformer,
                blocks=blocks,
                target_tokens=target_tokens,
                text_count=conditioning.prompt_embeds.shape[1],
                target_count=x_t.shape[1],
            )
            with probe if step == probed_step else nullcontext({}) as seen:
                velocity = adapter.velocity(x_t, t, given, ids, guidance)
            found |= seen
            x_t = ode_step(x_t, velocity, t, t_next)
    picture = adapter.decode(x_t, height, width)[0].cpu()
    return Probed(picture=picture, step=probed_step, time=times[probed_step], attention=found)


def _load_lora(adapter: FluxAdapter, lora: LoraFile | None) -> None:
    if lora is not None:
        from ..models.lora_apply import load_for_inference

        load_for_inference(adapter.transformer, lora)


def _checked_blocks(adapter: FluxAdapter, asked: Sequence[str]) -> tuple[str, ...]:
    from ..models.attention_probe import block_names, check_blocks, default_blocks
    from ..models.layout import NO_REFERENCE

    if adapter.layout == NO_REFERENCE:
        raise ValueError('layout "none" leaves the reference out: there is no attention to it to look at')
    names = block_names(adapter.folder)
    chosen = tuple(asked) or default_blocks(names)
    check_blocks(chosen, names)
    return chosen


def _checked_points(asked: Sequence[Point], size: tuple[int, int]) -> tuple[Point, ...]:
    height, width = size
    points = tuple(asked) or tuple((round(width * x), round(height * y)) for x, y in DEFAULT_PLACES)
    for x, y in points:
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(
                f"point {x},{y} lies outside the picture of {width} x {height} px: "
                f"x is 0 to {width - 1}, y is 0 to {height - 1}"
            )
    if len(set(points)) != len(points):
        raise ValueError(f"points must be different, got {list(points)}")
    return points


def _token_px(adapter: FluxAdapter, size: tuple[int, int]) -> int:
    """Side of the square of pixels that a token stands for."""
    rows = int(adapter.target_ids(*size)[-1, 1]) + 1
    return size[0] // rows


def _token_of(adapter: FluxAdapter, point: Point, size: tuple[int, int]) -> int:
    """The target's token in which a point lies, counted row by row."""
    token_px = _token_px(adapter, size)
    x, y = point
    return y // token_px * (size[1] // token_px) + x // token_px


def _maps(
    adapter: FluxAdapter, found: dict[str, BlockAttention], points: Sequence[Point], size: tuple[int, int]
) -> list[AttentionMap]:
    """A map for each block and point: the reference has the target's size, and so its grid."""
    token_px = _token_px(adapter, size)
    columns = size[1] // token_px
    maps = []
    for block, attention in found.items():
        for index, point in enumerate(points):
            weights = attention.to_reference[0, index]
            row, column = divmod(int(weights.argmax()), columns)
            maps.append(
                AttentionMap(
                    block=block,
                    point=point,
                    text_share=float(attention.text_share[0, index]),
                    target_share=float(attention.target_share[0, index]),
                    reference_share=float(attention.reference_share[0, index]),
                    peak=(column * token_px + token_px // 2, row * token_px + token_px // 2),
                    rows=weights.unflatten(0, (-1, columns)).tolist(),
                )
            )
    return maps


Facts = dict[str, Any]
