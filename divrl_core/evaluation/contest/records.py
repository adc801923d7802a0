"""Scores on disk: a line a picture and scorer, appended as they are made, read back as they are found.

OUTPUT/scores/MODEL.jsonl   {"reference": "fox", "number": 0, "k": 2, "scorer": "clip", "values": {"clip_t": 0.31}}

OUTPUT/scores/MODEL~1.jsonl the same, of a second process while it runs; the next start gathers it into MODEL.jsonl

k is null for the values of a whole question's pictures. A last line cut off by a kill is left out and its picture is
scored again; of two lines for the same picture and scorer the later holds. NaN (undefined) is null.
"""

from __future__ import annotations

import glob
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SCORES = "scores"
PART = "~"


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """Whose values they are: a picture's, or with k None those of all pictures of a question."""

    reference_id: str
    number: int
    k: int | None


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """What one scorer says of one place; NaN = undefined."""

    place: Place
    scorer: str
    values: Mapping[str, float]


def read_scores(path: Path) -> tuple[ScoreRow, ...]:
    """The rows of a file, the later of two for the same place and scorer; none where there is no file.

    A last line without its end is none: the next row takes its place. Raises ValueError, with the line, for one that is
    no row.
    """
    if not path.is_file():
        return ()
    rows: dict[tuple[Place, str], ScoreRow] = {}
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text[: text.rfind("\n") + 1].splitlines(), start=1):
        try:
            row = _row(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}:{number}: is no row of scores ({error}); delete the line, and it is scored again"
            ) from error
        rows[row.place, row.scorer] = row
    return tuple(rows.values())


def append_scores(path: Path, rows: Iterable[ScoreRow]) -> None:
    """Add rows to a file, on the disk when this returns. A cut-off last line there is dropped first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(_plain(row), allow_nan=False) + "\n" for row in rows)
    with path.open("ab+") as stream:
        stream.truncate(_whole_bytes(stream))
        stream.seek(0, os.SEEK_END)
        stream.write(text.encode("utf-8"))
        stream.flush()
        os.fsync(stream.fileno())


def part_file(path: Path, process: int) -> Path:
    """The file that process `process` of several appends to; the first one's is the model's own."""
    return path if process == 0 else path.with_name(f"{path.stem}{PART}{process}{path.suffix}")


def read_all_scores(path: Path) -> tuple[ScoreRow, ...]:
    """The rows of a model's file and of its parts, whose rows are the later ones. Raises as `read_scores`."""
    rows = [row for file in (path, *_parts(path)) for row in read_scores(file)]
    return tuple({(row.place, row.scorer): row for row in rows}.values())


def gather_scores(path: Path) -> None:
    """Move the rows of a model's parts into its own file; nobody may be writing to them."""
    for part in _parts(path):
        append_scores(path, read_scores(part))
        part.unlink()


def merged(rows: Sequence[ScoreRow]) -> dict[Place, dict[str, float]]:
    """All scorers' values of every place that has any; a row may be empty, which says that nothing is to be had."""
    values: dict[Place, dict[str, float]] = {}
    for row in (row for row in rows if row.values):
        values.setdefault(row.place, {}).update(row.values)
    return values


def _parts(path: Path) -> list[Path]:
    """The files of further processes, in their order. No model's name has the sign that sets them apart."""
    found = path.parent.glob(f"{glob.escape(path.stem)}{PART}*{path.suffix}")
    return sorted(found, key=lambda part: int(part.stem.rpartition(PART)[2]))


def _row(found: Mapping[str, Any]) -> ScoreRow:
    place = Place(
        reference_id=str(found["reference"]),
        number=int(found["number"]),
        k=None if found["k"] is None else int(found["k"]),
    )
    values = {
        str(name): math.nan if value is None else float(value) for name, value in found["values"].items()
    }
    return ScoreRow(place=place, scorer=str(found["scorer"]), values=values)


def _plain(row: ScoreRow) -> dict[str, Any]:
    place = row.place
    values = {name: None if math.isnan(value) else value for name, value in row.values.items()}
    head = {"reference": place.reference_id, "number": place.number, "k": place.k}
    return {**head, "scorer": row.scorer, "values": values}


def _whole_bytes(stream: IO[bytes]) -> int:
    """How many bytes of the file are whole lines."""
    stream.seek(0)
    return stream.read().rfind(b"\n") + 1
