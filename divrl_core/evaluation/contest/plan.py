"""A contest as it will be held, everything checked before any picture is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import BackboneConfig
from ...models.features.base import BackboneSettings, backbone_class, backbone_grid
from ...models.fingerprint import path_word
from ...models.segmentation.files import segmenter_problems
from ...rewards.score import object_cells
from ...settings import to_mapping
from ...training.backbone_checks import backbone_problems
from ...training.preflight import raise_problems
from ...training.references import DataProblems
from ..benchmarks.base import Benchmark, PictureName, Question, View, names_of
from .base import Asking, Base, find_base
from .entries import Entry
from .evaluated import PICTURES, Model
from .made import MadeWith, check_made
from .rewarded import ALIKE, rewarded_columns
from .settings import STREAM, ContestSettings
from .sources import ScorerSource

VERSION = 1  # of how pictures are made: raise it when that changes, and old ones are refused
Finished = Callable[[Path, Sequence[Question], int], Mapping[PictureName, Path]]
"""The finished pictures in a folder, so many of each question; raises for missing, unreadable or strange ones."""


@dataclass(frozen=True)
class Contest:
    """What was checked. asked: how each model that is made here is asked. files: of the finished ones, by name."""

    settings: ContestSettings
    benchmark: Benchmark
    entries: tuple[Entry, ...]
    scorers: tuple[ScorerSource, ...]
    base: Base
    asked: Mapping[str, Asking]
    files: Mapping[str, Mapping[PictureName, Path]]

    @property
    def made(self) -> tuple[Entry, ...]:
        """The entries whose pictures are made here."""
        return tuple(entry for entry in self.entries if entry.finished is None)

    @cached_property
    def names(self) -> tuple[PictureName, ...]:
        """The pictures of every model."""
        return names_of(self.benchmark.questions, self.settings.pictures_each)

    @cached_property
    def backbone(self) -> BackboneSettings:
        """The main backbone's settings, without its weights."""
        return backbone_settings(self.settings.backbone)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models as tables name them. Best-of-N chooses by the main backbone's measures, so it is paid by them."""
        return tuple(self._model(entry) for entry in self.entries)

    def made_with(self, entry: Entry, questions: Mapping[str, str], masks: Mapping[str, str]) -> MadeWith:
        """What an entry's pictures follow from; `questions`, `masks`: digests of all of them, by name.

        Best-of-N alone looks at masks.
        """
        if entry.finished is not None:
            files = self.files[entry.name]
            return MadeWith(
                parts={"kind": "finished", "version": VERSION},
                items={name.file.as_posix(): _file_digest(files[name]) for name in self.names},
            )
        asking, settings = self.asked[entry.name], self.settings
        lora = None if entry.lora is None else hashlib.sha256(entry.lora.read_bytes()).hexdigest()
        parts = {
            "kind": "made",
            "version": VERSION,
            **self.base.made_of,
            "lora": lora,
            "strength": None if entry.lora is None else entry.strength,
            "layout": asking.layout,
            "guidance": asking.guidance,
            "steps": settings.steps,
            "seed": settings.seed,
            "noise": STREAM,
            **self._of_rival(entry),
        }
        return MadeWith(parts=parts, items=questions if entry.candidates is None else {**questions, **masks})

    def _of_rival(self, entry: Entry) -> dict[str, Any]:
        if entry.candidates is None:
            return {} if entry.text_noise is None else {"text_noise": entry.text_noise}
        backbone = to_mapping(self.settings.backbone)
        if backbone["path"] is not None:
            backbone["path"] = path_word(backbone["path"])
        chosen_by = {f"chosen_by.{key}": value for key, value in backbone.items()}
        return {"candidates": entry.candidates, "gate": self.backbone.gate, **chosen_by}

    def _model(self, entry: Entry) -> Model:
        asking = self.asked.get(entry.name)
        lora = None if asking is None else asking.lora
        rewards = rewarded_columns(lora, [scorer.name for scorer in self.scorers])
        about = entry.about(self.base.model)
        if entry.candidates is not None:
            rewards = tuple(sorted({*rewards, *ALIKE["nssm"], "vsm"}))
            about += f": VSM >= {self.backbone.gate:g}, then nSSM, by {self.settings.backbone.name}"
        return Model(
            name=entry.name,
            about=about,
            evaluations=entry.evaluations(self.settings.steps),
            trained_on=rewards,
        )


def checked_contest(
    settings: ContestSettings,
    benchmark: Benchmark,
    entries: Sequence[Entry],
    scorers: Sequence[ScorerSource],
    *,
    finished: Finished,
    problems: Sequence[str] = (),
) -> Contest:
    """Check everything that can be known before a model is read.

    `finished` is asked for the pictures of entries that name a folder. `problems`: what was found before.

    Raises ValueError or FileNotFoundError with all that is wrong, each in a line.
    """
    base, asked = find_base(settings, entries)
    found = [*problems, *_question_problems(benchmark), *backbone_problems(settings.backbone)]
    if settings.segmenter is not None:
        found += segmenter_problems(settings.segmenter)
    files = {}
    for entry in entries:
        if entry.finished is not None:
            try:
                files[entry.name] = finished(entry.finished, benchmark.questions, settings.pictures_each)
            except DataProblems as error:
                found += [f"--model {entry.name}: {line}" for line in error.lines]
            except (ValueError, OSError) as error:
                found.append(f"--model {entry.name}: {error}")
    raise_problems(list(dict.fromkeys(found)))  # the main backbone is a metric too
    return Contest(settings, benchmark, tuple(entries), tuple(scorers), base, asked, files)


def backbone_settings(config: BackboneConfig) -> BackboneSettings:
    """The settings a backbone would run with; no weights are read."""
    with torch.device("meta"):
        return backbone_class(config).without_weights(config).settings


@dataclass(frozen=True)
class Digests:
    """What files follow from beside models and settings.

    questions: REFERENCE/NUMBER -> its prompt and its reference's pixels. subjects: reference id -> its mask and its
    views, digests by name, which scores and best-of-N look at.
    """

    questions: Mapping[str, str]
    subjects: Mapping[str, Mapping[str, str]]

    @property
    def masks(self) -> dict[str, str]:
        """Of the references' masks alone, by name."""
        return {
            name: digest
            for one in self.subjects.values()
            for name, digest in one.items()
            if name[:5] == "mask "
        }


def reference_digests(contest: Contest) -> Digests:
    """Load every reference once: what is in it, and whether all who look at its mask can.

    Raises ValueError naming every one that cannot be read, or whose mask is too small for a backbone's cells.
    """
    benchmark, size_px = contest.benchmark, contest.base.size_px
    pixels: dict[str, bytes] = {}
    subjects: dict[str, Mapping[str, str]] = {}
    problems: list[str] = []
    for reference_id in benchmark.reference_ids:
        try:
            reference = benchmark.references.load(reference_id, size_px)
        except (ValueError, OSError) as error:
            problems.append(f"{reference_id}: {error}")
            continue
        problems += _mask_problems(contest, reference_id, reference.mask)
        image = reference.image.contiguous().numpy().tobytes()
        pixels[reference_id] = blake2b(image, digest_size=16).digest()
        subjects[reference_id] = _subject_digests(reference_id, reference.mask, benchmark.views)
    raise_problems(problems)
    questions = {
        f"{one.reference_id}/{one.number}": blake2b(
            one.pair.prompt.encode(), key=pixels[one.reference_id], digest_size=16
        ).hexdigest()
        for one in benchmark.questions
    }
    return Digests(questions, subjects)


def _mask_problems(contest: Contest, reference_id: str, mask: Tensor) -> list[str]:
    """A line where the mask says nothing to a scorer, or to the backbone that chooses for best-of-N."""
    try:
        for scorer in contest.scorers:
            scorer.check_mask(mask, name=reference_id)
        if any(entry.candidates for entry in contest.entries):
            grid = backbone_grid(contest.settings.backbone, contest.base.size_px)
            object_cells(mask, grid, contest.backbone.score.nssm_pool, reference_id)
    except ValueError as error:
        return [str(error)]
    return []


def _subject_digests(reference_id: str, mask: Tensor, views: Mapping[str, Sequence[View]]) -> dict[str, str]:
    digests = {f"mask of {reference_id}": _digest(mask.contiguous().numpy().tobytes())}
    if own := views.get(reference_id, ()):
        pictures = [view.load() for view in own]
        seen = b"".join(repr(one.size).encode() + one.tobytes() for one in pictures)
        digests[f"views of {reference_id}"] = _digest(seen)
    return digests


def check_pictures(contest: Contest, output: Path, digests: Digests) -> dict[str, MadeWith]:
    """What every entry's pictures follow from. Raises ValueError where other ones are there (made.py)."""
    masks = digests.masks
    made = {entry.name: contest.made_with(entry, digests.questions, masks) for entry in contest.entries}
    for name, now in made.items():
        check_made(output / PICTURES / name, now)
    return made


def _question_problems(benchmark: Benchmark) -> list[str]:
    """Prompts that say nothing, and questions that would be answered in the same file."""
    problems = [] if benchmark.questions else [f"{benchmark.name}: asks nothing"]
    seen: set[tuple[str, int]] = set()
    for question in benchmark.questions:
        place = (question.reference_id, question.number)
        if not question.pair.prompt.strip():
            problems.append(
                f"{question.reference_id}: its prompt {question.number} is empty; write what to show"
            )
        if not _is_unicode(question.pair.prompt):
            problems.append(
                f"{question.reference_id}: its prompt {question.number} holds half a character, which is no Unicode: "
                f"{question.pair.prompt!a}; write it anew"
            )
        if place in seen:
            problems.append(f"{question.reference_id}: has two questions of number {question.number}")
        seen.add(place)
    return problems


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate alone, as JSON may spell one
        return False
    return True


def _file_digest(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
