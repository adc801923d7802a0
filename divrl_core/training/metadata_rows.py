"""Rows of a `metadata.jsonl`: one reference each.

{"file_name" or "image": "fox.png", "captions": ["...", "..."] or "caption": "lines", "mask": "...", "id":
"..."}. Only the picture is needed in the row; without an id it is the picture's name without its ending.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .prompt_lines import prompts_of_text

_PICTURE_KEYS = ("file_name", "image")
_CAPTION_KEYS = ("captions", "caption")
_KEYS = (*_PICTURE_KEYS, *_CAPTION_KEYS, "mask", "id")


@dataclass(frozen=True)
class MetadataRow:
    """One row as written; with `needs_captions` its captions, if any, are in a file beside the picture."""

    where: str
    reference_id: str
    picture: str
    captions: tuple[str, ...]
    needs_captions: bool
    mask: str | None
    keys: tuple[str, ...]


def read_rows(path: Path) -> tuple[list[MetadataRow], list[str]]:
    """The rows of the file and the problems in them, a line each, with file and line. Opens no picture."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return [], [f"{path}: cannot be read as UTF-8 text ({error})"]
    rows: list[MetadataRow] = []
    problems: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row, row_problems = _row(line, f"{path}:{number}")
            rows += [row] if row is not None else []
            problems += row_problems
    if not rows and not problems:
        problems.append(f"{path}: has no rows")
    return rows, problems


def _row(line: str, where: str) -> tuple[MetadataRow | None, list[str]]:
    try:
        values = json.loads(line)
    except ValueError as error:
        return None, [f"{where}: not JSON ({error})"]
    if not isinstance(values, dict):
        return None, [f"{where}: a row must be a JSON object, got {type(values).__name__}"]
    problems = [f"{where}: {text}" for text in _misspelt(values)]
    captions, caption_problems = captions_of(_first(values, _CAPTION_KEYS))
    problems += [f"{where}: {text}" for text in caption_problems]
    mask = values.get("mask")
    if mask is not None and not isinstance(mask, str):
        problems.append(f"{where}: mask must be a file name, got {mask!r}")
        mask = None
    picture = _first(values, _PICTURE_KEYS)
    if not isinstance(picture, str) or not picture:
        problems.append(
            f"{where}: file_name must name the picture, got {picture!r}; the row has {', '.join(values)}"
        )
        return None, problems
    reference_id = values.get("id")
    if reference_id is None:
        reference_id = os.path.splitext(picture)[0]
    if isinstance(reference_id, bool) or not isinstance(reference_id, (str, int)) or reference_id == "":
        problems.append(f"{where}: id must be a text or a whole number, got {reference_id!r}")
        return None, problems
    row = MetadataRow(
        where=where,
        reference_id=str(reference_id),
        picture=picture,
        captions=captions,
        needs_captions=_first(values, _CAPTION_KEYS) is None,
        mask=mask,
        keys=tuple(values),
    )
    return row, problems


def captions_of(value: object) -> tuple[tuple[str, ...], list[str]]:
    """Prompts from a text with one a line, or from a list; and what is wrong with them. None has neither."""
    if value is None:
        return (), []
    if isinstance(value, str):
        prompts = prompts_of_text(value)
        if not prompts.lines:
            return (), ["the caption is empty"]
        return prompts.lines, [
            f"line {number} of the caption is empty" for number in prompts.blank_line_numbers
        ]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        return (), [f"captions must be a text or a list of texts, got {value!r}"]
    captions = tuple(" ".join(item.split()) for item in value)
    problems = [
        f"caption {place} of {len(captions)} is empty" for place, text in enumerate(captions, 1) if not text
    ]
    return tuple(filter(None, captions)), problems or ([] if captions else ["the list of captions is empty"])


def _first(values: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _misspelt(values: Mapping[str, Any]) -> list[str]:
    """Keys that look like a known one; other keys are the user's own and mean nothing here."""
    lines = []
    for key in values:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)
        if near and key not in _KEYS:
            lines.append(f"unknown key {key!r}; the nearest known is {near[0]!r}")
    for keys in (_PICTURE_KEYS, _CAPTION_KEYS):
        if all(values.get(key) is not None for key in keys):
            lines.append(f"one of {' and '.join(keys)} is needed, got both")
    return lines
