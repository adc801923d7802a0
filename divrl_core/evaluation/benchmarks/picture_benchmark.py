"""A benchmark whose references are picture files: what all layouts of files have in common once they are read.

A layout finds references, prompts, masks and views and notes what is wrong (`Entry`, lines of problems); here the part
that is asked for is chosen, every picture of it decoded once, and everything that is wrong said together.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ...config import SegmenterConfig
from ...training.picture_references import (
    BY_MODEL,
    WHOLE_PICTURE,
    PictureFile,
    PictureReferences,
    PictureSource,
    check_sources,
    content_of,
)
from ...training.pictures import decode_picture
from ...training.references import DataProblems, prompt_pairs
from ..score_inputs import segmenter_masks
from .base import Benchmark, Question, View
from .limits import Limits, kept_ids
from .reference_ids import id_problem

logger = logging.getLogger("divrl")

STYLE = "style"  # the collection of references that show a style and no subject, as DreamBench++ names it


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One reference of a layout, nothing decoded yet: picture, prompts and mask, what it is, other pictures of it."""

    source: PictureSource
    subject: str = ""
    collection: str = ""
    views: tuple[PictureFile, ...] = ()

    @property
    def reference_id(self) -> str:
        """Its id."""
        return self.source.reference_id


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What a layout's reader found: `name`, `kind` and `where` as a benchmark has them, entries and problems."""

    name: str
    kind: str
    where: str
    entries: Sequence[Entry]
    problems: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a benchmark is opened. size_px: the side at which a subject must not vanish; None: not looked at."""

    limits: Limits = Limits()
    segmenter: SegmenterConfig | None = None
    size_px: int | None = None


def picture_benchmark(layout: Layout, reading: Reading) -> Benchmark:
    """Choose the part that is asked for, decode every picture of it once, and make the benchmark.

    A reference's mask is its mask file, else its alpha channel, else what the segmenter makes of it (not here, see
    `training.model_masks.make_masks`), else the whole picture.

    Raises DataProblems with everything that is wrong, a line each.
    """
    problems = [*layout.problems, *_id_problems(layout.entries)]
    entries = _limited(layout.entries, reading.limits)
    masks = segmenter_masks(reading.segmenter, problems)
    logger.info("checking %s: %s", layout.where, _counted(entries, layout.entries))
    checked, picture_problems = check_sources(
        [entry.source for entry in entries],
        size_px=reading.size_px,
        otherwise=WHOLE_PICTURE if masks is None else BY_MODEL,
    )
    problems += picture_problems
    problems += unreadable([view for entry in entries for view in entry.views])
    if problems:
        raise DataProblems(problems)
    return Benchmark(
        name=layout.name,
        kind=layout.kind,
        source=f"{layout.where}: {_counted(entries, layout.entries)}",
        references=PictureReferences(checked, masks),
        questions=tuple(question for entry in entries for question in _questions(entry)),
        views={entry.reference_id: tuple(map(_view, entry.views)) for entry in entries if entry.views},
    )


def picture_file(path: Path) -> PictureFile:
    """A file on disk, not read yet."""
    return PictureFile(where=str(path), read=lambda: path)


def unreadable(files: Sequence[PictureFile]) -> list[str]:
    """Decode every picture once, in threads: a line for each that cannot be read, in the order of the files."""

    def look(file: PictureFile) -> str | None:
        try:
            decode_picture(content_of(file))
        except ValueError as error:
            return f"{file.where}: {error}"
        return None

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return [line for line in pool.map(look, files) if line is not None]


def _id_problems(entries: Iterable[Entry]) -> list[str]:
    problems: list[str] = []
    taken: dict[str, str] = {}
    for entry in entries:
        where, reference_id = entry.source.picture.where, entry.reference_id
        if problem := id_problem(reference_id):
            problems.append(f"{where}: {problem}")
        if reference_id in taken:
            problems.append(
                f"{where}: the id {reference_id!r} is already taken by {taken[reference_id]}; rename one"
            )
        taken.setdefault(reference_id, where)
    return problems


def _limited(entries: Sequence[Entry], limits: Limits) -> list[Entry]:
    kept = kept_ids({entry.reference_id: entry.collection for entry in entries}, limits.references)
    return [
        replace(entry, source=replace(entry.source, captions=entry.source.captions[: limits.prompts]))
        for entry in entries
        if entry.reference_id in kept
    ]


def _questions(entry: Entry) -> Iterable[Question]:
    pairs = prompt_pairs(entry.reference_id, entry.source.captions)
    for number, pair in enumerate(pairs):
        yield Question(
            pair=pair,
            number=number,
            subject=entry.subject,
            collection=entry.collection,
            is_style=entry.collection == STYLE,
        )


def _view(file: PictureFile) -> View:
    def load() -> Image.Image:
        return decode_picture(content_of(file)).rgb

    return View(where=file.where, load=load)


def _counted(entries: Sequence[Entry], whole: Sequence[Entry]) -> str:
    """As in "8 of 150 references, 72 prompts"."""
    part = "" if len(entries) == len(whole) else f"{len(entries)} of "
    prompts = sum(len(entry.source.captions) for entry in entries)
    references = "reference" if len(whole) == 1 else "references"
    return f"{part}{len(whole)} {references}, {prompts} {'prompt' if prompts == 1 else 'prompts'}"
