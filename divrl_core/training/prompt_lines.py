"""Prompts written as the lines of one text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompts:
    """The prompts of a text, and the numbers (from 1) of the blank lines before the last of them."""

    lines: tuple[str, ...]
    blank_line_numbers: tuple[int, ...]


def prompts_of_text(text: str) -> Prompts:
    """Each line is a prompt, the first like the rest; blank lines at the end of the text do not count."""
    if not text.strip():
        return Prompts((), ())
    lines = [line.strip() for line in text.rstrip().replace("\r\n", "\n").split("\n")]
    return Prompts(
        lines=tuple(line for line in lines if line),
        blank_line_numbers=tuple(number for number, line in enumerate(lines, 1) if not line),
    )
