"""Lettering on pictures: one readable font, a wider one for letters it lacks, and text cut to a width."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_for(text: str, size_px: int) -> Font:
    """The font for a line of text: Pillow's own (Aileron), or matplotlib's DejaVu Sans where Aileron lacks one of its
    letters.
    """
    if all(_aileron_has(letter) for letter in set(text)):
        return _aileron(size_px)
    return _dejavu(size_px)


def text_width(text: str, size_px: int) -> int:
    """Width of one line of text in pixels."""
    return round(font_for(text, size_px).getlength(text))


def fit_text(text: str, size_px: int, width_px: int) -> str:
    """The text on one line no wider than `width_px`, cut with an ellipsis where it is longer."""
    line = " ".join(text.split())
    if text_width(line, size_px) <= width_px:
        return line
    while line and text_width(line + "…", size_px) > width_px:
        line = line[:-1].rstrip()
    return line + "…"


def wrap_text(text: str, size_px: int, width_px: int, max_lines: int) -> list[str]:
    """The text broken between words into at most `max_lines` lines of `width_px`; the last is cut with an
    ellipsis.
    """
    lines: list[str] = []
    words = text.split()
    while words:
        taken = 1
        while taken < len(words) and text_width(" ".join(words[: taken + 1]), size_px) <= width_px:
            taken += 1
        if len(lines) == max_lines - 1:
            taken = len(words)
        lines.append(fit_text(" ".join(words[:taken]), size_px, width_px))
        words = words[taken:]
    return lines


@lru_cache(maxsize=64)
def _aileron(size_px: int) -> Font:
    return ImageFont.load_default(size=size_px)


@lru_cache(maxsize=64)
def _dejavu(size_px: int) -> Font:
    try:
        import matplotlib
    except (
        ImportError
    ):  # in ComfyUI, which does not need it: boxes stand for the few letters that Aileron lacks
        return _aileron(size_px)

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    # DejaVu runs wide and tall beside Aileron: nine tenths of the size looks the same.
    return ImageFont.truetype(str(path), size=max(8, round(size_px * 0.9)))


@lru_cache(maxsize=4096)
def _aileron_has(letter: str) -> bool:
    if letter.isspace():
        return True
    font = _aileron(24)
    return _drawn(font, letter) != _drawn(font, "\uffff")


def _drawn(font: Font, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)
