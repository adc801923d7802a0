"""Contact sheets: the reference beside the pictures made from it, with the numbers under them.

Two layouts. `contact_sheet` has one row a reference: reference | results at fixed seeds. `comparison_sheet`
has one block a reference and one row a model inside it, so that the same seed stands in the same column for
every model. Pictures are tensors (3, H, W) in [0, 1] or PIL images; they are enlarged with Lanczos or, to
show pixels, nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from PIL import Image, ImageDraw

from .lettering import fit_text, font_for, text_width, wrap_text

if TYPE_CHECKING:
    from torch import Tensor

Picture: TypeAlias = "Tensor | Image.Image"
Upscale = Literal["lanczos", "nearest"]


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """One reference and the pictures made from it; `captions` stand under the results, one each, or are
    empty.
    """

    label: str
    reference: Picture
    results: Sequence[Picture]
    captions: Sequence[str] = ()
    reference_caption: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One reference and, for each model by name, its pictures at the same seeds, with captions or none."""

    label: str
    reference: Picture
    results: Mapping[str, Sequence[Picture]]
    captions: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Theme:
    """The colours of a sheet: paper behind, ink for words, muted for numbers, hairlines, and one colour a
    model.
    """

    paper: str
    ink: str
    muted: str
    hairline: str
    models: Mapping[str, str]


LIGHT = Theme(
    paper="#fbfaf7",
    ink="#1d1f23",
    muted="#646a73",
    hairline="#dedad1",
    models={"base": "#6b7280", "explore": "#d55e00", "suppress": "#0072b2"},
)
DARK = Theme(
    paper="#15171b",
    ink="#eceae4",
    muted="#9aa1ab",
    hairline="#33373e",
    models={"base": "#a3abb6", "explore": "#f28e4b", "suppress": "#56b4e9"},
)

_TITLE_PX, _LABEL_PX, _CAPTION_PX = 26, 16, 14
_MARGIN_PX, _GAP_PX, _BREAK_PX, _ROW_PX = 28, 8, 20, 22
_LABEL_LINES = 2


def contact_sheet(
    rows: Sequence[SheetRow],
    *,
    columns: Sequence[str],
    title: str,
    cell_px: int = 176,
    upscale: Upscale = "lanczos",
    theme: Theme = LIGHT,
) -> Image.Image:
    """A sheet of references and results, one row a reference.

    `columns` are the headers, the reference's first: ("reference", "seed 0", "seed 1", ...). `cell_px` is
    the longer side of a picture on the sheet. Raises ValueError when the headers or captions do not match
    the pictures.
    """
    _check_rows(rows, columns)
    lefts = _lefts(len(columns), cell_px)
    width = lefts[-1] + cell_px + _MARGIN_PX
    has_captions = any(row.reference_caption or any(row.captions) for row in rows)
    caption_px = _CAPTION_PX + 10 if has_captions else 0
    labels = [wrap_text(row.label, _LABEL_PX, width - 2 * _MARGIN_PX, _LABEL_LINES) for row in rows]
    row_heights = [len(lines) * (_LABEL_PX + 6) + cell_px + caption_px + _ROW_PX for lines in labels]
    sheet, draw, top = _open_sheet(title, width, sum(row_heights) + _LABEL_PX + 14, theme)

    for left, header in zip(lefts, columns, strict=True):
        write_line(draw, (left, top), fit_text(header, _CAPTION_PX, cell_px), _CAPTION_PX, theme.muted)
    top += _LABEL_PX + 14
    for row, lines, height in zip(rows, labels, row_heights, strict=True):
        picture_top = _write_lines(draw, top, lines, theme)
        captions = [row.reference_caption, *(row.captions or [""] * len(row.results))]
        for left, picture, caption in zip(lefts, [row.reference, *row.results], captions, strict=False):
            place(sheet, picture, (left, picture_top), cell_px, upscale)
            line = fit_text(caption, _CAPTION_PX, cell_px)
            write_line(draw, (left, picture_top + cell_px + 5), line, _CAPTION_PX, theme.muted)
        top += height
    return sheet


def comparison_sheet(
    rows: Sequence[ComparisonRow],
    *,
    seeds: Sequence[str],
    title: str,
    cell_px: int = 176,
    upscale: Upscale = "lanczos",
    theme: Theme = LIGHT,
) -> Image.Image:
    """A sheet that compares models: a block a reference, a row a model, the same seed down each column.

    `seeds` are the headers of the result columns. Raises ValueError when the rows name different models or
    a model has another number of pictures than there are seeds.
    """
    models = _check_comparison(rows, seeds)
    reference_px = round(cell_px * 1.35)
    names_px = max(text_width(name, _LABEL_PX) for name in models) + 44
    first = _MARGIN_PX + reference_px + names_px
    lefts = [first + index * (cell_px + _GAP_PX) for index in range(len(seeds))]
    width = lefts[-1] + cell_px + _MARGIN_PX
    has_captions = any(any(captions) for row in rows for captions in row.captions.values())
    line_px = cell_px + (_CAPTION_PX + 12 if has_captions else _GAP_PX)
    block_px = _LABEL_PX + 22 + line_px * len(models) + _ROW_PX
    sheet, draw, top = _open_sheet(title, width, block_px * len(rows), theme)

    for row in rows:
        draw.line((_MARGIN_PX, top, width - _MARGIN_PX, top), fill=theme.hairline)
        write_line(draw, (_MARGIN_PX, top + 12), "reference", _CAPTION_PX, theme.muted)
        for left, seed in zip(lefts, seeds, strict=True):
            write_line(draw, (left, top + 12), fit_text(seed, _CAPTION_PX, cell_px), _CAPTION_PX, theme.muted)
        block_top = top + _LABEL_PX + 22
        place(sheet, row.reference, (_MARGIN_PX, block_top), reference_px, upscale)
        _write_lines(
            draw, block_top + reference_px + 10, wrap_text(row.label, _LABEL_PX, reference_px, 6), theme
        )
        for index, name in enumerate(models):
            line_top = block_top + index * line_px
            _write_model(draw, (_MARGIN_PX + reference_px + 18, line_top + cell_px // 2), name, theme)
            captions = row.captions.get(name) or [""] * len(seeds)
            for left, picture, caption in zip(lefts, row.results[name], captions, strict=True):
                place(sheet, picture, (left, line_top), cell_px, upscale)
                line = fit_text(caption, _CAPTION_PX, cell_px)
                write_line(draw, (left, line_top + cell_px + 4), line, _CAPTION_PX, theme.muted)
        top += block_px
    return sheet


def to_picture(picture: Picture) -> Image.Image:
    """The picture as an RGB PIL image; a tensor (3, H, W) is clamped to [0, 1] and rounded to 8 bits."""
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if picture.ndim != 3 or picture.shape[0] != 3:
        raise ValueError(
            f"a picture must have shape (3, H, W), got {tuple(picture.shape)}; pass one picture, not a batch"
        )
    levels = picture.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy())


def score_caption(nssm: float | None, vsm: float | None) -> str:
    """The two numbers under a picture: `nSSM .41 · VSM .62`; a score that is undefined (NaN) is shown as
    n/a.
    """
    return f"nSSM {short_number(nssm)} · VSM {short_number(vsm)}"


def short_number(value: float | None, digits: int = 2) -> str:
    """A number without its leading zero (.41), or n/a for one that is undefined."""
    if value is None or value != value:
        return "n/a"
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def _check_rows(rows: Sequence[SheetRow], columns: Sequence[str]) -> None:
    if not rows:
        raise ValueError("a contact sheet needs at least one row, got none; pick at least one reference")
    longest = max(1 + len(row.results) for row in rows)
    if longest != len(columns):
        raise ValueError(
            f"a contact sheet needs a header for each of its {longest} columns, got {len(columns)}"
        )
    for row in rows:
        if row.captions and len(row.captions) != len(row.results):
            raise ValueError(
                f"row '{row.label}' has {len(row.results)} results and {len(row.captions)} captions; "
                "give one each, or none"
            )


def _check_comparison(rows: Sequence[ComparisonRow], seeds: Sequence[str]) -> list[str]:
    if not rows:
        raise ValueError("a comparison sheet needs at least one row, got none; pick at least one reference")
    models = list(rows[0].results)
    for row in rows:
        if list(row.results) != models:
            raise ValueError(
                f"row '{row.label}' shows the models {list(row.results)}, the first row {models}; "
                "show the same in all rows"
            )
        for name, pictures in row.results.items():
            captions = row.captions.get(name)
            if len(pictures) != len(seeds) or (captions and len(captions) != len(seeds)):
                raise ValueError(
                    f"row '{row.label}', {name}: needs a picture and a caption (or no captions) for each of "
                    f"{len(seeds)} seeds, got {len(pictures)} and {len(captions or ())}"
                )
    return models


def _lefts(count: int, cell_px: int) -> list[int]:
    """Left edges of the columns: the reference stands a little apart from the results."""
    step = cell_px + _GAP_PX
    return [_MARGIN_PX + index * step + (_BREAK_PX if index else 0) for index in range(count)]


def _open_sheet(
    title: str, width: int, body_px: int, theme: Theme
) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    lines = wrap_text(title, _TITLE_PX, width - 2 * _MARGIN_PX, 2)
    top = _MARGIN_PX + len(lines) * (_TITLE_PX + 8) + 12
    sheet = Image.new("RGB", (width, top + body_px + _MARGIN_PX // 2), theme.paper)
    draw = ImageDraw.Draw(sheet)
    for index, line in enumerate(lines):
        write_line(draw, (_MARGIN_PX, _MARGIN_PX - 6 + index * (_TITLE_PX + 8)), line, _TITLE_PX, theme.ink)
    return sheet, draw, top


def _write_lines(draw: ImageDraw.ImageDraw, top: int, lines: Sequence[str], theme: Theme) -> int:
    for index, line in enumerate(lines):
        write_line(draw, (_MARGIN_PX, top + index * (_LABEL_PX + 6)), line, _LABEL_PX, theme.ink)
    return top + len(lines) * (_LABEL_PX + 6) + 4


def _write_model(draw: ImageDraw.ImageDraw, left_middle: tuple[int, int], name: str, theme: Theme) -> None:
    left, middle = left_middle
    draw.rectangle((left, middle - 10, left + 3, middle + 10), fill=theme.models.get(name, theme.ink))
    font = font_for(name, _LABEL_PX)
    draw.text((left + 11, middle), name, font=font, fill=theme.ink, anchor="lm")


def write_line(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size_px: int, colour: str) -> None:
    """One line of text from its upper left corner; nothing for an empty one."""
    if text:
        draw.text(at, text, font=font_for(text, size_px), fill=colour)


def place(sheet: Image.Image, picture: Picture, at: tuple[int, int], cell_px: int, upscale: Upscale) -> None:
    """Put a picture into its square cell, its longer side filling it, centred."""
    image = to_picture(picture)
    scale = cell_px / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    method = Image.Resampling.LANCZOS if upscale == "lanczos" else Image.Resampling.NEAREST
    left, top = at
    sheet.paste(image.resize(size, method), (left + (cell_px - size[0]) // 2, top + (cell_px - size[1]) // 2))
