"""Marks on a sheet's pictures, smooth at any size: a numbered disc, a ring, a cross, a square frame.

Each is drawn onto `sheet` around its `middle`, (x, y) in pixels, in ink with a rim of paper, so that it is seen on any
ground.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from .lettering import font_for
from .sheets import LIGHT

_FINER = 4  # drawn so much larger, and made smooth by shrinking
_DISC_PX, _RING_PX, _CROSS_PX, _NUMBER_PX = 22, 18, 15, 13


def draw_disc(sheet: Image.Image, middle: tuple[int, int], number: int) -> None:
    """A disc with a number in it."""

    def paint(draw: ImageDraw.ImageDraw, side: int) -> None:
        draw.ellipse((0, 0, side - 1, side - 1), fill=LIGHT.paper)
        draw.ellipse((6, 6, side - 7, side - 7), fill=LIGHT.ink)
        font = font_for(str(number), _NUMBER_PX * _FINER)
        draw.text((side // 2, side // 2), str(number), font=font, fill=LIGHT.paper, anchor="mm")

    _stamp(sheet, middle, _DISC_PX, paint)


def draw_ring(sheet: Image.Image, middle: tuple[int, int]) -> None:
    """A ring through which the ground is seen; a cross fits into it."""

    def paint(draw: ImageDraw.ImageDraw, side: int) -> None:
        draw.ellipse((0, 0, side - 1, side - 1), outline=LIGHT.paper, width=4 * _FINER)
        draw.ellipse((5, 5, side - 6, side - 6), outline=LIGHT.ink, width=2 * _FINER)

    _stamp(sheet, middle, _RING_PX, paint)


def draw_cross(sheet: Image.Image, middle: tuple[int, int]) -> None:
    """An upright cross."""

    def paint(draw: ImageDraw.ImageDraw, side: int) -> None:
        half = side // 2
        for colour, thick, end in ((LIGHT.paper, 14, 0), (LIGHT.ink, 6, 5)):
            draw.rectangle((half - thick // 2, end, half + thick // 2, side - 1 - end), fill=colour)
            draw.rectangle((end, half - thick // 2, side - 1 - end, half + thick // 2), fill=colour)

    _stamp(sheet, middle, _CROSS_PX, paint)


def draw_frame(sheet: Image.Image, corner: tuple[int, int], side_px: int) -> None:
    """The outline of a square, from its upper left corner."""
    left, top = corner
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + side_px - 1, top + side_px - 1), outline=LIGHT.paper, width=3)
    draw.rectangle((left + 1, top + 1, left + side_px - 2, top + side_px - 2), outline=LIGHT.ink)


def _stamp(
    sheet: Image.Image,
    middle: tuple[int, int],
    side_px: int,
    paint: Callable[[ImageDraw.ImageDraw, int], None],
) -> None:
    large = Image.new("RGBA", (side_px * _FINER, side_px * _FINER), (0, 0, 0, 0))
    paint(ImageDraw.Draw(large), large.width)
    mark = large.resize((side_px, side_px), Image.Resampling.LANCZOS)
    sheet.paste(mark, (middle[0] - side_px // 2, middle[1] - side_px // 2), mark)
