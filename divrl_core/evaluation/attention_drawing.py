"""The sheet of attention maps: the picture with its points, the reference, and a row of heat maps a block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .attention_reading import AttentionMap, Point
from .heat import heat_map, heat_scale
from .lettering import fit_text, font_for, text_width, wrap_text
from .marks import draw_cross, draw_disc, draw_frame, draw_ring
from .sheets import LIGHT, Picture, to_picture

_TITLE_PX, _LABEL_PX, _CAPTION_PX = 26, 16, 14
_MARGIN_PX, _GAP_PX, _LINE_PX, _HEADER_PX = 28, 12, 20, 34
_CELL_PX, _OVERVIEW_PX, _LEGEND_PX, _LEGEND_LINES, _BAR_PX = 224, 296, 320, 12, 16
_EXPLANATION = (
    "The reference, coloured by how much attention the point's token pays to each of its own in that block, "
    "mean over heads. Each map has its own scale:"
)


def draw_attention(
    *,
    target: Picture,
    reference: Picture,
    maps: Sequence[AttentionMap],
    token_px: int,
    title: str,
    prompt: str,
    facts: str,
) -> Image.Image:
    """The finished picture with its points, the reference, and a map for each block (row) and point (column).

    `maps` go block by block and, within a block, point by point; `token_px` is the side of a token in the pictures,
    which have one size.
    """
    picture, subject = to_picture(target), to_picture(reference)
    blocks = list(dict.fromkeys(one.block for one in maps))
    points = [one.point for one in maps if one.block == blocks[0]]
    lefts = _lefts(blocks, len(points))
    overview_end = 2 * (_MARGIN_PX + _OVERVIEW_PX) + _GAP_PX + _LEGEND_PX
    width = _MARGIN_PX + max(lefts[-1] + _CELL_PX, overview_end)
    prompt_lines = wrap_text(prompt, _LABEL_PX, width - 2 * _MARGIN_PX, 2)
    overview_top = 2 * _MARGIN_PX + _TITLE_PX + (len(prompt_lines) + 1) * (_LABEL_PX + 6)
    overview_px = max(_fitted(picture.size, _OVERVIEW_PX)[1], _LEGEND_LINES * _LINE_PX)
    maps_top = overview_top + _LINE_PX + overview_px + _MARGIN_PX
    row_px = _fitted(subject.size, _CELL_PX)[1] + 3 * _LINE_PX

    sheet = Image.new("RGB", (width, maps_top + _HEADER_PX + len(blocks) * row_px), LIGHT.paper)
    _draw_head(sheet, title, prompt_lines, facts)
    _draw_overview(sheet, overview_top, picture, subject, points, token_px)
    rule_top = maps_top - _MARGIN_PX // 2
    ImageDraw.Draw(sheet).line((_MARGIN_PX, rule_top, width - _MARGIN_PX, rule_top), fill=LIGHT.hairline)
    for number, (left, (x, y)) in enumerate(zip(lefts, points, strict=True), start=1):
        draw_disc(sheet, (left + 11, maps_top + 11), number)
        _write(sheet, (left + 30, maps_top + 3), f"at {x},{y} px", _CAPTION_PX, LIGHT.muted)
    for row, block in enumerate(blocks):
        top = maps_top + _HEADER_PX + row * row_px
        _write(sheet, (_MARGIN_PX, top + (row_px - 3 * _LINE_PX - _LABEL_PX) // 2), block, _LABEL_PX)
        for left, one in zip(lefts, (one for one in maps if one.block == block), strict=True):
            _draw_map(sheet, (left, top), subject, one, token_px)
    return sheet


def percent(share: float) -> str:
    """A share in percent, to two digits: 31%, 2.4%; <0.1% and >99% for what would look like nothing and like all."""
    if 0 < share < 0.0005:
        return "<0.1%"
    if 0.995 <= share < 1:
        return ">99%"
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def _draw_head(sheet: Image.Image, title: str, prompt_lines: Sequence[str], facts: str) -> None:
    room_px, top = sheet.width - 2 * _MARGIN_PX, 2 * _MARGIN_PX + 14
    _write(sheet, (_MARGIN_PX, _MARGIN_PX - 6), fit_text(title, _TITLE_PX, room_px), _TITLE_PX)
    for line in prompt_lines:
        _write(sheet, (_MARGIN_PX, top), line, _LABEL_PX)
        top += _LABEL_PX + 6
    _write(sheet, (_MARGIN_PX, top), fit_text(facts, _CAPTION_PX, room_px), _CAPTION_PX, LIGHT.muted)


def _draw_overview(
    sheet: Image.Image,
    top: int,
    picture: Image.Image,
    subject: Image.Image,
    points: Sequence[Point],
    token_px: int,
) -> None:
    """The picture with the points' tokens and numbers, the reference, and what the maps mean."""
    size = _fitted(picture.size, _OVERVIEW_PX)
    second_left = _MARGIN_PX + _OVERVIEW_PX + _GAP_PX
    _write(sheet, (_MARGIN_PX, top), "the picture, and the points in it", _CAPTION_PX, LIGHT.muted)
    _write(sheet, (second_left, top), "the reference, as the model sees it", _CAPTION_PX, LIGHT.muted)
    for left, shown in ((_MARGIN_PX, picture), (second_left, subject)):
        sheet.paste(shown.resize(size, Image.Resampling.LANCZOS), (left, top + _LINE_PX))
    scale = size[0] / picture.width
    corners = [
        (round(x // token_px * token_px * scale), round(y // token_px * token_px * scale)) for x, y in points
    ]
    for left, below in corners:
        draw_frame(sheet, (_MARGIN_PX + left, top + _LINE_PX + below), round(token_px * scale))
    for number, (left, below) in enumerate(corners, start=1):
        draw_disc(sheet, (_MARGIN_PX + left, top + _LINE_PX + below), number)
    _draw_legend(sheet, (second_left + _OVERVIEW_PX + _MARGIN_PX, top))


def _draw_legend(sheet: Image.Image, at: Point) -> None:
    left, top = at
    _write(sheet, (left, top), "how to read a map", _CAPTION_PX, LIGHT.muted)
    top += _LINE_PX + 2
    for line in wrap_text(_EXPLANATION, _CAPTION_PX, _LEGEND_PX, 5):
        _write(sheet, (left, top), line, _CAPTION_PX)
        top += _LINE_PX
    sheet.paste(heat_scale((_LEGEND_PX, _BAR_PX)), (left, top + 6))
    top += _BAR_PX + 10
    _write(sheet, (left, top), "none", _CAPTION_PX, LIGHT.muted)
    _write_right(sheet, (left + _LEGEND_PX, top), "the map's peak")
    for mark, meaning in (
        (draw_ring, "the peak of the attention"),
        (draw_cross, "the point's own place, for comparison"),
    ):
        top += _LINE_PX + 6
        mark(sheet, (left + 9, top + 8))
        _write(sheet, (left + 28, top), meaning, _CAPTION_PX)


def _draw_map(sheet: Image.Image, at: Point, subject: Image.Image, one: AttentionMap, token_px: int) -> None:
    """One heat map with its two marks, and under it where the point's attention goes."""
    left, top = at
    size = _fitted(subject.size, _CELL_PX)
    weights = np.asarray(one.rows, dtype=np.float64)
    sheet.paste(heat_map(subject, weights, size), at)
    scale = size[0] / subject.width
    own_x, own_y = (place // token_px * token_px + token_px // 2 for place in one.point)
    for mark, (x, y) in ((draw_cross, (own_x, own_y)), (draw_ring, one.peak)):
        mark(sheet, (left + round(x * scale), top + round(y * scale)))
    top += size[1] + 5
    _write(sheet, (left, top), f"{percent(one.reference_share)} on the reference", _CAPTION_PX)
    _write_right(sheet, (left + _CELL_PX, top), f"peak {percent(weights.max())}")
    rest = f"picture {percent(one.target_share)} · text {percent(one.text_share)}"
    _write(sheet, (left, top + _LINE_PX), rest, _CAPTION_PX, LIGHT.muted)


def _lefts(blocks: Sequence[str], count: int) -> list[int]:
    """Left edges of the maps, beside the blocks' names."""
    first = _MARGIN_PX + max(text_width(name, _LABEL_PX) for name in blocks) + 20
    return [first + index * (_CELL_PX + _GAP_PX) for index in range(count)]


def _fitted(size: tuple[int, int], longest_px: int) -> tuple[int, int]:
    scale = longest_px / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _write(sheet: Image.Image, at: Point, text: str, size_px: int, colour: str = LIGHT.ink) -> None:
    ImageDraw.Draw(sheet).text(at, text, font=font_for(text, size_px), fill=colour)


def _write_right(sheet: Image.Image, end: Point, text: str) -> None:
    _write(sheet, (end[0] - text_width(text, _CAPTION_PX), end[1]), text, _CAPTION_PX, LIGHT.muted)
