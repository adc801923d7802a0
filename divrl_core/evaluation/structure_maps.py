"""What the two measures see, as pictures.

`structure_sheet`: the self-similarity maps behind nSSM, the reference's beside each picture's (arXiv:2606.23950,
figure 7). A map is M = F F^T over the cells of the reference's object, bright where two of them are alike: equal maps
are equal structure. `identity_sheet`: where VSM fails, cells that found their part in the reference and do not look so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from ..rewards.score import ReferenceFeatures, ScoreSettings, match_cells
from ..rewards.similarity import normalise
from ..selection.judge import Judged
from .heat import heat_map, heat_scale
from .lettering import fit_text
from .score_sheet import score_words
from .sheets import LIGHT, Picture, Upscale, place, to_picture, write_line

_CELL_PX, _GAP_PX, _MARGIN_PX, _TEXT_PX, _LINE_PX, _TITLE_PX = 224, 14, 26, 15, 20, 22
_MAP_COLOURS = ((13, 8, 60), (93, 20, 120), (190, 55, 105), (245, 135, 60), (252, 240, 160))
_FAINT = 1e-6


def self_similarity(structure: Tensor, mask: Tensor, *, pool: int = 1) -> Tensor:
    """M of eq. 4 over the object's cells: cosines (n, n) of features (C, h, w) at the cells of `mask`.

    mask: bool on the pooled grid (h / pool, w / pool). pool: side of the blocks averaged after normalising, as in nSSM.
    """
    cells = torch.nn.functional.avg_pool2d(normalise(structure[None], dim=1), pool)
    inside = cells[0].flatten(1)[:, mask.flatten().to(cells.device)]
    return inside.T @ inside


def identity_failure(
    judged: Judged, reference: ReferenceFeatures, settings: ScoreSettings, source_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(failure, kept), each (B, h, w): how far below tau_v a matched cell looks, 0 (agrees) to 1; and which matched.

    failure = (tau_v - visual similarity) / tau_v where the cell is matched and does not agree, else 0.
    """
    matched = match_cells(judged.features, reference, settings, source_mask)
    height, width = judged.features.grid
    below = ((settings.tau_v - matched.visual) / max(abs(settings.tau_v), _FAINT)).clamp(0, 1)
    fails = matched.kept & ~matched.agrees
    # A cell that just misses tau_v fails as well, so it is not left without colour.
    strength = torch.where(fails, below.clamp_min(0.25), torch.zeros_like(below))
    return strength.reshape(-1, height, width), matched.kept.reshape(-1, height, width)


def structure_sheet(
    reference: Picture,
    reference_map: Tensor,
    pictures: Sequence[Picture],
    maps: Sequence[Tensor],
    nssm: Sequence[float],
) -> Image.Image:
    """Pictures above their self-similarity maps; all maps share one scale, that of the reference's map."""
    low, high = off_diagonal_range(reference_map)
    tops = [reference, *pictures]
    drawn = [map_picture(one, low, high) for one in (reference_map, *maps)]
    captions = ["reference", *(f"nSSM {score_words(value)}" for value in nssm)]
    sheet, draw = _open("Self-similarity of the object's cells", len(tops), rows=2)
    for number, (top, below, caption) in enumerate(zip(tops, drawn, captions, strict=True)):
        place(sheet, top, _corner(number, 0), _CELL_PX, "lanczos")
        # A map of few cells shows them as squares; one of more cells than pixels is smoothed.
        upscale: Upscale = "nearest" if below.width < _CELL_PX else "lanczos"
        place(sheet, below, _corner(number, 1), _CELL_PX, upscale)
        _caption(draw, number, 1, caption)
    return sheet


def identity_sheet(
    reference: Picture,
    pictures: Sequence[Picture],
    failures: Sequence[Tensor],
    kept: Sequence[Tensor],
    vsm: Sequence[float],
) -> Image.Image:
    """The pictures in grey, coloured where identity fails: the darker, the less a matched cell looks like its part."""
    sheet, draw = _open(
        "Where identity fails: matched by meaning, unlike in looks", 1 + len(pictures), rows=1
    )
    place(sheet, reference, _corner(0, 0), _CELL_PX, "lanczos")
    _caption(draw, 0, 0, "reference")
    size = (140, 10)
    sheet.paste(heat_scale(size), (_MARGIN_PX, _top(0) + _CELL_PX + _LINE_PX + 10))
    for number, (picture, failure, matched, score) in enumerate(
        zip(pictures, failures, kept, vsm, strict=True), start=1
    ):
        shown = identity_picture(picture, failure)
        place(sheet, shown, _corner(number, 0), _CELL_PX, "lanczos")
        fails = int((failure > 0).sum())
        _caption(draw, number, 0, f"VSM {score_words(score)}: {fails} of {int(matched.sum())} matches fail")
    return sheet


def identity_picture(picture: Picture, failure: Tensor) -> Image.Image:
    """One picture at its own size with its failing cells (h, w) in colour."""
    image = to_picture(picture)
    weights: NDArray[np.float64] = failure.cpu().double().numpy()
    return heat_map(image, weights, image.size, strongest=1.0)


def off_diagonal_range(matrix: Tensor) -> tuple[float, float]:
    """The least and the greatest value of a map off its diagonal: the scale that all maps of a sheet share."""
    count = len(matrix)
    off = matrix[~torch.eye(count, dtype=torch.bool, device=matrix.device)]
    low, high = float(off.min()), float(off.max())
    return low, max(high, low + _FAINT)


def map_picture(matrix: Tensor, low: float, high: float) -> Image.Image:
    """One map in colours; the diagonal, which nSSM leaves out, is as bright as the brightest."""
    shares = ((matrix.float().cpu() - low) / (high - low)).clamp(0, 1).numpy()
    stops = np.linspace(0, 1, len(_MAP_COLOURS))
    channels = [np.interp(shares, stops, channel) for channel in zip(*_MAP_COLOURS, strict=True)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _open(title: str, columns: int, *, rows: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    width = 2 * _MARGIN_PX + columns * (_CELL_PX + _GAP_PX) - _GAP_PX
    height = _top(rows) + _LINE_PX + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), LIGHT.paper)
    draw = ImageDraw.Draw(sheet)
    line = fit_text(title, _TITLE_PX, width - 2 * _MARGIN_PX)
    write_line(draw, (_MARGIN_PX, _MARGIN_PX - 6), line, _TITLE_PX, LIGHT.ink)
    return sheet, draw


def _top(row: int) -> int:
    return _MARGIN_PX + _TITLE_PX + 14 + row * (_CELL_PX + _GAP_PX)


def _left(column: int) -> int:
    return _MARGIN_PX + column * (_CELL_PX + _GAP_PX)


def _corner(column: int, row: int) -> tuple[int, int]:
    return _left(column), _top(row)


def _caption(draw: ImageDraw.ImageDraw, column: int, row: int, text: str) -> None:
    at = (_left(column), _top(row) + _CELL_PX + 5)
    write_line(draw, at, fit_text(text, _TEXT_PX, _CELL_PX), _TEXT_PX, LIGHT.muted)
