"""Finished pictures of any system, in a folder, as answers to a benchmark's questions.

Which file is which picture: `finished_names.py`. A folder with a tgt_image/ is samples of DreamBench++
(`dreambench_samples.py`): its pictures lie there, and where there is a text/ it must say what the benchmark asks.
Every picture that is missing, too many or unreadable is told before anything is made.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...training.folder_data import MASKS_NAME
from ...training.folder_files import is_picture
from ...training.pictures import PICTURE_SUFFIXES
from ...training.references import DataProblems
from ..score_inputs import SHEET
from .base import PictureName, Question, names_of
from .dreambench_samples import TARGETS, TEXTS
from .finished_names import FileNames
from .picture_benchmark import picture_file, unreadable

logger = logging.getLogger("divrl")

MOST_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The files of one system's pictures, in the order of the questions; `pictures_each` for every question."""

    pictures: Mapping[PictureName, Path]
    pictures_each: int


def find_finished(
    folder: Path,
    questions: Sequence[Question],
    *,
    pictures_each: int | None = None,
    is_part: bool = False,
) -> Finished:
    """Find, match and decode the finished pictures of a folder.

    Args:
        folder: a system's pictures.
        questions: what they answer.
        pictures_each: how many there must be of every question; None: as many as most questions have.
        is_part: the questions are a part of the benchmark, so pictures of others are left alone, and the short form,
            REFERENCE_K.png, is not read: the number in it could be a prompt's.

    Raises:
        FileNotFoundError: no such folder.
        DataProblems: pictures that are missing, too many, made for other prompts, or unreadable.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder of finished pictures at {folder}")
    home = folder / TARGETS if (folder / TARGETS).is_dir() else folder
    names = FileNames(questions, is_part=is_part)
    matched = _matched(home, names)
    if not matched.found:
        raise DataProblems([*matched.repeated, _nothing_found(folder, home, names, matched.strange)])
    each = _usual_count(matched.found) if pictures_each is None else pictures_each
    wanted = names_of(questions, each)
    pictures = {name: matched.found[name] for name in wanted if name in matched.found}
    problems = [
        *matched.repeated,
        *_missing(home, wanted, matched.found),
        *_surplus(home, _not_asked(matched, each, is_part=is_part), names),
        *_other_prompts(folder, questions, pictures),
        *unreadable([picture_file(path) for path in pictures.values()]),
    ]
    if problems:
        raise DataProblems(problems)
    return Finished(pictures=pictures, pictures_each=each)


@dataclass(frozen=True, kw_only=True)
class _Matched:
    """Pictures by name; files that are none, with the reason; a line for each second file of the same picture."""

    found: Mapping[PictureName, Path]
    strange: Mapping[Path, str]
    repeated: Sequence[str]


def _matched(home: Path, names: FileNames) -> _Matched:
    found: dict[PictureName, Path] = {}
    strange: dict[Path, str] = {}
    repeated: list[str] = []
    for path in _pictures_in(home):
        name = names.picture(path.relative_to(home).with_suffix("").as_posix())
        if isinstance(name, str):
            strange[path] = name
        elif name in found:
            repeated.append(f"{path}: is the same picture as {found[name].relative_to(home)}; keep one")
        else:
            found[name] = path
    return _Matched(found=found, strange=strange, repeated=repeated)


def _not_asked(matched: _Matched, each: int, *, is_part: bool) -> dict[Path, str]:
    """The files that no question asks for, with the reason; of a part only those of its own questions."""
    beyond = {
        path: f"{each} of each question are wanted, from 0"
        for name, path in matched.found.items()
        if name.k >= each
    }
    if not is_part:
        return {**matched.strange, **beyond}
    logger.info("%d finished pictures answer other questions", len(matched.strange))
    return beyond


def _usual_count(found: Iterable[PictureName]) -> int:
    """How many pictures most questions have, counted by their last; of two equally usual counts the greater."""
    last: dict[tuple[str, int], int] = {}
    for name in found:
        question = (name.reference_id, name.number)
        last[question] = max(last.get(question, 0), name.k)
    usual = Counter(last.values())
    return 1 + max(usual, key=lambda k: (usual[k], k))


def _pictures_in(home: Path) -> list[Path]:
    """Pictures to the folder's depth, without masks, contact sheets and hidden files."""
    return [
        path
        for path in sorted(home.rglob("*"))
        if is_picture(path)
        and path.name != SHEET
        and not path.name.startswith(".")
        and not path.stem.endswith(".mask")
        and MASKS_NAME not in path.relative_to(home).parts[:-1]
    ]


def _nothing_found(folder: Path, home: Path, names: FileNames, strange: Mapping[Path, str]) -> str:
    if strange:
        return f"{home}: none of its pictures answers a question: {_some(home, strange)}; needs {names.forms}"
    inside = sorted(path.parent.name for path in folder.glob(f"*/{TARGETS}"))
    hint = f"; name one of its folders: {', '.join(inside)}" if inside else f"; needs {names.forms}"
    return f"{home}: no pictures in it ({', '.join(PICTURE_SUFFIXES)}){hint}"


def _missing(home: Path, wanted: Sequence[PictureName], found: Mapping[PictureName, Path]) -> list[str]:
    missing = [name.file.as_posix() for name in wanted if name not in found]
    if not missing:
        return []
    each, usual = 1 + max(name.k for name in wanted), _usual_count(found)
    hint = f"; most questions have {usual}: --pictures-each {usual}" if usual < each else ""
    if all(name.k > 0 for name in found):
        hint = "; pictures of a question are counted from 0"
    return [f"{home}: {len(missing)} of {len(wanted)} pictures are missing: {_first(missing)}{hint}"]


def _surplus(home: Path, strange: Mapping[Path, str], names: FileNames) -> list[str]:
    if not strange:
        return []
    count = "1 picture is" if len(strange) == 1 else f"{len(strange)} pictures are"
    return [f"{home}: {count} not asked for: {_some(home, strange)}; needs {names.forms}"]


def _other_prompts(
    folder: Path, questions: Sequence[Question], pictures: Mapping[PictureName, Path]
) -> list[str]:
    """Samples of DreamBench++ that say they were made for another prompt than the benchmark's."""
    asked = {(question.reference_id, question.number): question.pair.prompt for question in questions}
    others = []
    for name in pictures:
        text, prompt = folder / TEXTS / name.file.with_suffix(".txt"), asked[name.reference_id, name.number]
        if text.is_file():
            said = text.read_text(encoding="utf-8-sig", errors="replace")
            if said.split() != prompt.split():
                others.append(
                    f"{name.file.with_suffix('.txt').as_posix()} ({said.strip()!r}, not {prompt!r})"
                )
    if not others:
        return []
    count = f"{len(others)} of {len(pictures)} pictures"
    return [f"{folder / TEXTS}: {count} were made for other prompts than the benchmark's: {_first(others)}"]


def _some(home: Path, strange: Mapping[Path, str]) -> str:
    """The first few files with what is wrong with them."""
    return _first([f"{path.relative_to(home).as_posix()} ({why})" for path, why in sorted(strange.items())])


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
