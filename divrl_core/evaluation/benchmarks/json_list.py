"""A list of prompts with their pictures in one JSON file, as a benchmark.

[{"prompt": "a fox in the snow", "image_paths": ["fox.png", "fox-side.png"], "subject": "fox"}, ...]

The first path is the reference, further ones show the same subject again. Entries with the same reference are its
prompts, in their order. Paths are relative to the list's folder and may not leave it. The reference's id is its path
without the ending. Optional: "mask", "subject", and "collection" or "category"; one entry of a reference may say it for
all. The collection "style" holds references that show a style and no subject.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...training.folder_files import FolderFiles
from ...training.picture_references import PictureSource
from .base import Benchmark
from .picture_benchmark import Entry, Layout, Reading, picture_benchmark, picture_file

KIND = "list"
Said = TypeVar("Said", Path, str)
_KEYS = ("prompt", "image_paths", "mask", "subject", "collection", "category")


def open_json_list(path: Path, reading: Reading) -> Benchmark:
    """The benchmark that a JSON list tells (see the top of the file).

    Raises FileNotFoundError without the file, DataProblems with everything that is wrong in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no list at {path}")
    reader = _ListReader(path)
    entries = reader.entries()
    layout = Layout(name=path.stem, kind=KIND, where=str(path), entries=entries, problems=reader.problems)
    return picture_benchmark(layout, reading)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One entry of the list whose files are there. where: for messages. said: the optional keys that it has."""

    where: str
    prompt: str
    pictures: tuple[Path, ...]
    mask: Path | None
    said: Mapping[str, str]


class _ListReader(FolderFiles):
    """Reads one list and gathers its problems."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._path = path

    def entries(self) -> list[Entry]:
        """The references in the order in which they are first named."""
        rows: dict[Path, list[_Row]] = {}
        for place, item in enumerate(self._items()):
            row = self._row(item, f"{self._path}: entry {place}")
            if row is not None:
                rows.setdefault(row.pictures[0], []).append(row)
        return [self._entry(picture, told) for picture, told in rows.items()]

    def _items(self) -> Sequence[Any]:
        try:
            items = json.loads(self._path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            self.problems.append(f"{self._path}: not JSON as UTF-8 text ({error})")
            return ()
        if not isinstance(items, list) or not items:
            got = "an empty one" if items == [] else type(items).__name__
            self.problems.append(
                f'{self._path}: must be a list of entries {{"prompt": ..., "image_paths": [...]}}, got {got}'
            )
            return ()
        return items

    def _row(self, item: object, where: str) -> _Row | None:
        """One entry, or None when a problem was noted that leaves nothing of it."""
        if not isinstance(item, dict):
            self.problems.append(f"{where}: must be an object, got {type(item).__name__}")
            return None
        self.problems += [f"{where}: {text}" for text in _misspelt(item)]
        prompt = item.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            self.problems.append(f"{where}: prompt must be a text that is not empty, got {prompt!r}")
            return None
        pictures = self._pictures(item.get("image_paths"), where)
        said = {key: self._text(item, key, where) for key in _KEYS[2:] if item.get(key) is not None}
        mask = self.named(said["mask"], f"{where}: mask") if said.get("mask") else None
        if not pictures:
            return None
        return _Row(where=where, prompt=" ".join(prompt.split()), pictures=pictures, mask=mask, said=said)

    def _pictures(self, paths: object, where: str) -> tuple[Path, ...]:
        """The files of an entry, none where a problem was noted."""
        is_list = isinstance(paths, list) and all(isinstance(path, str) and path for path in paths)
        if not is_list or not paths:
            self.problems.append(
                f"{where}: image_paths must be a list of file names, the reference first, got {paths!r}"
            )
            return ()
        assert isinstance(paths, list)
        found = [self.named(path, f"{where}: image_paths") for path in paths]
        return tuple(path for path in found if path is not None) if None not in found else ()

    def _text(self, item: Mapping[str, Any], key: str, where: str) -> str:
        if isinstance(item[key], str) and item[key].strip():
            return item[key].strip()
        self.problems.append(f"{where}: {key} must be a text that is not empty, got {item[key]!r}")
        return ""

    def _entry(self, picture: Path, rows: Sequence[_Row]) -> Entry:
        """One reference of all entries about it."""
        self._find_repeats(rows)
        mask = self._agreed([(row.where, row.mask) for row in rows], "masks")
        views = dict.fromkeys(path for row in rows for path in row.pictures[1:] if path != picture)
        source = PictureSource(
            picture.relative_to(self.folder).with_suffix("").as_posix(),
            tuple(row.prompt for row in rows),
            picture_file(picture),
            None if mask is None else picture_file(mask),
        )
        subject = self._agreed([(row.where, row.said.get("subject")) for row in rows], "subjects")
        collection = self._agreed([(row.where, _collection(row.said)) for row in rows], "collections")
        return Entry(
            source=source,
            subject=subject or "",
            collection=collection or "",
            views=tuple(map(picture_file, views)),
        )

    def _agreed(self, said: Sequence[tuple[str, Said | None]], what: str) -> Said | None:
        """What the entries of one reference say of it; contradictions are a problem."""
        first: tuple[str, Said] | None = None
        for where, value in said:
            if not value:
                continue
            if first is not None and value != first[1]:
                self.problems.append(
                    f"{where}: says {value}, {first[0].rpartition(': ')[2]} says {first[1]}: two {what} of one "
                    "reference"
                )
            first = first or (where, value)
        return None if first is None else first[1]

    def _find_repeats(self, rows: Sequence[_Row]) -> None:
        first: dict[str, str] = {}
        for row in rows:
            if row.prompt in first:
                self.problems.append(
                    f"{row.where}: asks the same of the same reference as {first[row.prompt].rpartition(': ')[2]}; "
                    "for several pictures of a prompt name it once"
                )
            first.setdefault(row.prompt, row.where)


def _collection(said: Mapping[str, str]) -> str | None:
    return said.get("collection") or said.get("category")


def _misspelt(item: Mapping[str, Any]) -> list[str]:
    """Keys that look like a known one, and two for one thing; other keys are the user's own and mean nothing here."""
    lines = []
    for key in item:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)
        if near and key not in _KEYS:
            lines.append(f"unknown key {key!r}; the nearest known is {near[0]!r}")
    if item.get("collection") is not None and item.get("category") is not None:
        lines.append("one of collection and category is needed, got both")
    return lines
