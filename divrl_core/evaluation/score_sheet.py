"""Pictures with their scores under them and the gate drawn: a sheet that is read at a glance.

Under each picture a bar shows its VSM from 0 to 1, with a tick where the gate is: filled in blue where the picture
passes, in orange where it does not. A score that is undefined is said to be, and has no bar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .lettering import fit_text, wrap_text
from .sheets import LIGHT, Picture, place, short_number, write_line

UNDEFINED = "undefined"
PASSES, FAILS = "#0072b2", "#d55e00"

_CELL_PX, _GAP_PX, _MARGIN_PX = 208, 14, 26
_TITLE_PX, _TEXT_PX, _LINE_PX = 22, 15, 20
_BAR_PX, _TICK_PX = 8, 4
_FRAME_PX = 4
_COLUMNS = 5


@dataclass(frozen=True, kw_only=True)
class ScoredPicture:
    """One picture with what is said under it. NaN = undefined. matches: the number behind VSM.

    is_kept draws a frame around it; is_foreseen makes all that is said of it grey: it was stopped, not finished.
    """

    picture: Picture
    label: str
    nssm: float
    vsm: float
    matches: int | None = None
    is_kept: bool = False
    is_foreseen: bool = False
    note: str = ""


def score_sheet(
    reference: Picture,
    pictures: Sequence[ScoredPicture],
    *,
    gate: float,
    title: str,
    notes: Sequence[str] = (),
) -> Image.Image:
    """The reference, then the pictures in rows of five; `notes` stand at the foot, a paragraph each.

    Raises ValueError when there is no picture.
    """
    if not pictures:
        raise ValueError("a score sheet needs at least one picture, got none")
    columns = min(_COLUMNS, 1 + len(pictures))
    rows = math.ceil((1 + len(pictures)) / columns)
    width = 2 * _MARGIN_PX + columns * (_CELL_PX + _GAP_PX) - _GAP_PX
    foot = [line for note in notes for line in wrap_text(note, _TEXT_PX, width - 2 * _MARGIN_PX, 3)]
    cell_height = _CELL_PX + 3 * _LINE_PX + _BAR_PX + _GAP_PX + 6
    head = wrap_text(title, _TITLE_PX, width - 2 * _MARGIN_PX, 2)
    top = _MARGIN_PX + len(head) * (_TITLE_PX + 8) + 6
    height = top + rows * cell_height + len(foot) * _LINE_PX + _MARGIN_PX
    sheet = Image.new("RGB", (width, height), LIGHT.paper)
    draw = ImageDraw.Draw(sheet)

    for number, line in enumerate(head):
        write_line(draw, (_MARGIN_PX, _MARGIN_PX - 6 + number * (_TITLE_PX + 8)), line, _TITLE_PX, LIGHT.ink)
    place(sheet, reference, (_MARGIN_PX, top), _CELL_PX, "lanczos")
    write_line(draw, (_MARGIN_PX, top + _CELL_PX + 5), "reference", _TEXT_PX, LIGHT.muted)
    for number, scored in enumerate(pictures, start=1):
        left = _MARGIN_PX + number % columns * (_CELL_PX + _GAP_PX)
        _draw_scored(sheet, draw, (left, top + number // columns * cell_height), scored, gate)
    for number, line in enumerate(foot):
        write_line(
            draw, (_MARGIN_PX, top + rows * cell_height + number * _LINE_PX), line, _TEXT_PX, LIGHT.muted
        )
    return sheet


def verdict(nssm: float, vsm: float, gate: float) -> str:
    """What the gate says: passes, below the gate, or undefined where either score is."""
    if math.isnan(nssm) or math.isnan(vsm):
        return UNDEFINED
    return "passes" if vsm >= gate else "below the gate"


def _draw_scored(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], scored: ScoredPicture, gate: float
) -> None:
    left, top = corner
    place(sheet, scored.picture, corner, _CELL_PX, "lanczos")
    if scored.is_kept:
        edges = (left - 2, top - 2, left + _CELL_PX + 1, top + _CELL_PX + 1)
        draw.rectangle(edges, outline=LIGHT.ink, width=_FRAME_PX)
    of_matches = "" if scored.matches is None else f" of {scored.matches}"
    numbers = f"nSSM {score_words(scored.nssm)} · VSM {_beside_gate(scored.vsm, gate)}{of_matches}"
    parts = (scored.note,) if scored.is_foreseen else (verdict(scored.nssm, scored.vsm, gate), scored.note)
    below = " · ".join(part for part in parts if part)
    ink = LIGHT.muted if scored.is_foreseen else LIGHT.ink
    colour = LIGHT.muted if scored.is_foreseen else _colour(scored, gate)
    lines = ((scored.label, ink), (numbers, ink), (below, colour))
    text_top = top + _CELL_PX + 6 + _BAR_PX + 4
    _draw_bar(draw, (left, top + _CELL_PX + 6), scored.vsm, gate, colour)
    for number, (line, colour) in enumerate(lines):
        fitted = fit_text(line, _TEXT_PX, _CELL_PX)
        write_line(draw, (left, text_top + number * _LINE_PX), fitted, _TEXT_PX, colour)


def _draw_bar(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], vsm: float, gate: float, colour: str
) -> None:
    left, top = corner
    draw.rectangle((left, top, left + _CELL_PX - 1, top + _BAR_PX - 1), fill=LIGHT.hairline)
    if not math.isnan(vsm) and vsm > 0:
        end = left + max(1, round(vsm * _CELL_PX)) - 1
        draw.rectangle((left, top, end, top + _BAR_PX - 1), fill=colour)
    if 0 <= gate <= 1:
        tick = left + min(_CELL_PX - 2, round(gate * _CELL_PX))
        draw.rectangle((tick - 1, top - _TICK_PX, tick + 1, top + _BAR_PX + _TICK_PX - 1), fill=LIGHT.ink)


def _colour(scored: ScoredPicture, gate: float) -> str:
    if verdict(scored.nssm, scored.vsm, gate) == UNDEFINED:
        return LIGHT.muted
    return PASSES if scored.vsm >= gate else FAILS


def score_words(value: float) -> str:
    """A score with two digits and no leading zero, or that it is undefined."""
    return UNDEFINED if math.isnan(value) else short_number(value)


def _beside_gate(vsm: float, gate: float) -> str:
    """VSM with as many digits as it takes to see on which side of the gate it lies."""
    if math.isnan(vsm) or vsm == gate:
        return score_words(vsm)
    digits = next(
        digits for digits in (2, 3, 4, 9) if digits == 9 or round(vsm, digits) != round(gate, digits)
    )
    return short_number(vsm, digits)
