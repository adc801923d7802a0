"""metrics.jsonl: one row a line, appended as the run goes and cut back to the checkpoint when it resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .files import json_ready, write_atomic_text

Row = dict[str, Any]


class MetricsLog:
    """The rows of one run, on disk and in `rows`; each row has a `kind` ("train" or "heldout") and an `update`."""

    def __init__(self, path: Path, *, is_read: bool = True) -> None:
        """`is_read`: take in what the file holds."""
        self.path = path
        self.rows: list[Row] = read_rows(path) if is_read and path.exists() else []

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row as one line; the line is handed to the system before the call returns."""
        clean: Row = json_ready(row)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(clean, allow_nan=False) + "\n")
        self.rows.append(clean)

    def cut_back(self, *, update: int, is_published: bool) -> None:
        """Drop what a checkpoint does not know of: rows of later updates, and its own held-out rows if these were
        still to be made (`is_published` false)."""
        self.rows = [row for row in self.rows if _is_known(row, update, is_published)]
        write_atomic_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.rows))

    def of_kind(self, kind: str) -> list[Row]:
        return [row for row in self.rows if row.get("kind") == kind]


def read_rows(path: Path) -> list[Row]:
    """The complete rows of a metrics file; a last line that a kill left half written is dropped."""
    rows: list[Row] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}: line {number} is not a JSON row ({error.msg}); mend or delete it"
            ) from error
    return rows


def flat_numbers(row: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The row's numbers under dotted names ("seconds.rollout"), the form trackers want."""
    flat: dict[str, float] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


def _is_known(row: Row, update: int, is_published: bool) -> bool:
    if row["kind"] == "heldout" and row["update"] == update:
        return is_published
    return bool(row["update"] <= update)


def mean_of(rows: Iterable[Row], key: str) -> float:
    """The mean of one number over rows; rows without it are left out; NaN when none has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return sum(values) / len(values) if values else float("nan")
