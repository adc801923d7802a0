"""Pairs in folders of pictures, with everything that is wrong in them found at once.

- Two folders: `target/fox.png` with its caption in `target/fox.txt`, and `reference/fox.png`, matched by stem. One
  folder that holds just these two, by these names, will do as well.
- One folder with a `metadata.jsonl`, a row a pair:
  {"target" or "file_name": "a.png", "reference": "b.png", "caption": "...", "id": "..."}.
- Grids: each picture shows one subject in several panels, and every ordered pair of panels is a pair. The caption file
  beside a grid has one line for all panels, or one for each, row by row.

Nothing is decoded here. No name and no link may lead out of its folder.
"""

from __future__ import annotations

import difflib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .folder_files import METADATA_NAME, OTHER_PICTURES, FolderFiles, is_picture, nearest
from .metadata_rows import captions_of
from .pair_set import PairPicture, PanelCut, TrainingPair
from .pictures import PICTURE_SUFFIXES

logger = logging.getLogger("divrl")

TARGET_FOLDER, REFERENCE_FOLDER = "target", "reference"
HINTED = 20  # so many unmatched names are told the nearest one
_TARGET_KEYS = ("target", "file_name")
_CAPTION_KEYS = ("captions", "caption")
_KEYS = (*_TARGET_KEYS, "reference", *_CAPTION_KEYS, "id")


@dataclass
class ReadPairs:
    """Pairs and their pictures, none decoded yet, and the problems found, a line each."""

    by_id: dict[str, TrainingPair] = field(default_factory=dict)
    pictures: dict[str, PairPicture] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def pairs(self) -> list[TrainingPair]:
        """The pairs in the order in which they were found."""
        return list(self.by_id.values())

    def add(self, pair: TrainingPair, where: str) -> None:
        """Add a pair whose id is new; else note the problem."""
        if pair.pair_id in self.by_id:
            self.problems.append(f"{where}: the id {pair.pair_id!r} is already taken by an earlier pair")
        else:
            self.by_id[pair.pair_id] = pair


def read_pair_folder(
    folder: Path, *, references: Path | None, grid: tuple[int, int] | None, gap_px: int
) -> ReadPairs:
    """The pairs of a folder in one of the three forms. Raises FileNotFoundError if a folder is not there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    if references is not None and not references.is_dir():
        raise FileNotFoundError(f"no folder at {references} (data.references)")
    if grid is not None:
        return _read_grids(FolderFiles(folder), grid, gap_px)
    if references is not None:
        return _read_two_folders(FolderFiles(folder), FolderFiles(references))
    if (folder / METADATA_NAME).exists():
        return _read_metadata(FolderFiles(folder))
    inner = [folder / TARGET_FOLDER, folder / REFERENCE_FOLDER]
    if all(path.is_dir() for path in inner):
        whole = FolderFiles(folder)
        if all(whole.is_inside(path, str(path)) for path in inner):
            return _read_two_folders(*map(FolderFiles, inner))
        return ReadPairs(problems=whole.problems)
    return ReadPairs(
        problems=[
            f"{folder}: no pairs here: needs {METADATA_NAME}, or folders {TARGET_FOLDER}/ and {REFERENCE_FOLDER}/, "
            "or set data.references to the folder of references, or data.grid (2x2) if its pictures are grids"
        ]
    )


def _read_two_folders(targets: FolderFiles, references: FolderFiles) -> ReadPairs:
    read = ReadPairs()
    by_stem = [_pictures_by_stem(files, read.problems) for files in (targets, references)]
    for side, pictures in zip(("target", "reference"), by_stem, strict=True):
        read.pictures |= {f"{side}/{stem}": _file(path) for stem, path in pictures.items()}
    for mine, others, files, what in (
        (by_stem[0], by_stem[1], references, "reference"),
        (by_stem[1], by_stem[0], targets, "target"),
    ):
        without_partner = others.keys() - mine.keys()
        for place, stem in enumerate(sorted(mine.keys() - others.keys())):
            hint = nearest(stem, without_partner) if place < HINTED else ""
            read.problems.append(f"{mine[stem]}: there is no {what} {stem!r} in {files.folder}{hint}")
    _find_stray_captions(targets, by_stem[0], read.problems)
    for stem, target in by_stem[0].items():
        captions = targets.captions_beside(target, where=str(target))
        if stem in by_stem[1] and captions:
            read.add(TrainingPair(stem, f"target/{stem}", f"reference/{stem}", captions), str(target))
    read.problems += targets.problems + references.problems
    if not read.by_id and not read.problems:
        read.problems.append(f"{targets.folder}: no pictures here ({', '.join(PICTURE_SUFFIXES)})")
    return read


def _read_grids(files: FolderFiles, grid: tuple[int, int], gap_px: int) -> ReadPairs:
    read = ReadPairs()
    rows, columns = grid
    panels = [
        PanelCut(row, column, rows, columns, gap_px) for row in range(rows) for column in range(columns)
    ]
    pictures = _pictures_by_stem(files, read.problems)
    _find_stray_captions(files, pictures, read.problems)
    for stem, picture in pictures.items():
        names = [f"{stem}[{panel.row},{panel.column}]" for panel in panels]
        read.pictures |= {
            name: PairPicture(str(picture), lambda path=picture: path, panel)  # type: ignore[misc]
            for name, panel in zip(names, panels, strict=True)
        }
        lines = files.captions_beside(picture, where=str(picture))
        if lines and len(lines) not in (1, len(panels)):
            read.problems.append(
                f"{picture.with_suffix('.txt')}: a grid of {rows}x{columns} needs one caption or {len(panels)}, one a "
                f"panel row by row, got {len(lines)}"
            )
            continue
        for place, target in enumerate(names):
            captions = lines if len(lines) == 1 else lines[place : place + 1]
            for reference in names:
                if reference != target and captions:
                    read.add(TrainingPair(f"{target}<{reference}", target, reference, captions), str(picture))
    read.problems += files.problems
    if not read.by_id and not read.problems:
        read.problems.append(f"{files.folder}: no grids here ({', '.join(PICTURE_SUFFIXES)})")
    return read


def _read_metadata(files: FolderFiles) -> ReadPairs:
    read = ReadPairs()
    metadata = files.folder / METADATA_NAME
    if files.is_inside(metadata, str(metadata)):
        try:
            text = metadata.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            read.problems.append(f"{metadata}: cannot be read as UTF-8 text ({error})")
            text = ""
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                _read_row(files, line, f"{metadata}:{number}", read)
    read.problems += files.problems
    if not read.by_id and not read.problems:
        read.problems.append(f"{metadata}: has no rows")
    return read


def _read_row(files: FolderFiles, line: str, where: str, read: ReadPairs) -> None:
    try:
        row = json.loads(line)
    except ValueError as error:
        read.problems.append(f"{where}: not JSON ({error})")
        return
    if not isinstance(row, dict):
        read.problems.append(f"{where}: a row must be a JSON object, got {type(row).__name__}")
        return
    for key in row:
        near = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.75)
        if near and key not in _KEYS:
            read.problems.append(f"{where}: unknown key {key!r}; the nearest known is {near[0]!r}")
    for keys in (_TARGET_KEYS, _CAPTION_KEYS):
        if all(row.get(key) is not None for key in keys):
            read.problems.append(f"{where}: one of {' and '.join(keys)} is needed, got both")
    paths = [_path_of(files, row, keys, where) for keys in (_TARGET_KEYS, ("reference",))]
    names = ["" if path is None else path.relative_to(files.folder).as_posix() for path in paths]
    read.pictures |= {name: _file(path) for name, path in zip(names, paths, strict=True) if path is not None}
    captions, problems = captions_of(_first(row, _CAPTION_KEYS))
    given = row.get("id")
    if given is not None and (isinstance(given, bool) or not isinstance(given, (str, int)) or given == ""):
        problems = [*problems, f"id must be a text or a whole number, got {given!r}"]
    read.problems += [f"{where}: {problem}" for problem in problems]
    target, reference = paths
    if target is None or reference is None or problems:
        return
    captions = captions or files.captions_beside(target, where=where)
    if not captions:
        return
    pair_id = f"{names[0]}<{names[1]}" if given is None else str(given)
    read.add(TrainingPair(pair_id, names[0], names[1], captions), where)


def _path_of(files: FolderFiles, row: dict[str, Any], keys: tuple[str, ...], where: str) -> Path | None:
    name = _first(row, keys)
    if not isinstance(name, str) or not name:
        files.problems.append(
            f"{where}: {keys[0]} must name a picture, got {name!r}; the row has {', '.join(row)}"
        )
        return None
    return files.named(name, where)


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> Any:
    return next((row[key] for key in keys if row.get(key) is not None), None)


def _pictures_by_stem(files: FolderFiles, problems: list[str]) -> dict[str, Path]:
    pictures: dict[str, Path] = {}
    for path in sorted(path for path in files.folder.iterdir() if not path.name.startswith(".")):
        if path.suffix.lower() in OTHER_PICTURES:
            problems.append(f"{path}: pictures must be {', '.join(PICTURE_SUFFIXES)}; convert it")
        elif is_picture(path) and path.stem in pictures:
            problems.append(f"{path}: {pictures[path.stem].name} has the same name; keep one of them")
        elif is_picture(path) and files.is_inside(path, str(path)):
            pictures[path.stem] = path
    return pictures


def _find_stray_captions(files: FolderFiles, pictures: dict[str, Path], problems: list[str]) -> None:
    for path in sorted(files.folder.glob("*.txt")):
        if path.stem not in pictures and not path.name.startswith("."):
            problems.append(f"{path}: this caption belongs to no picture{nearest(path.stem, pictures)}")


def _file(path: Path) -> PairPicture:
    return PairPicture(str(path), lambda: path)
