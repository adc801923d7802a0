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

from ...config import BackboneConfig
from ...models.features.base import BackboneSettings, backbone_class
from ...models.segmentation.files import segmenter_problems
from ...settings import to_mapping
from ...training.backbone_checks import backbone_problems
from ...training.preflight import raise_problems
from ...training.references import DataProblems
from ..benchmarks.base import Benchmark, PictureName, Question, names_of
from .base import Asking, Base, find_base, trained_on
from .entries import Entry
from .evaluated import PICTURES, Model
from .made import MadeWith, check_made
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
        backbone = {f"chosen_by.{key}": value for key, value in to_mapping(self.settings.backbone).items()}
        return {"candidates": entry.candidates, "gate": self.backbone.gate, **backbone}

    def _model(self, entry: Entry) -> Model:
        asking = self.asked.get(entry.name)
        lora = None if asking is None else asking.lora
        rewards = trained_on(lora, [scorer.name for scorer in self.scorers])
        about = entry.about(self.base.model)
        if entry.candidates is not None:
            rewards = tuple(sorted({*rewards, "nssm", "vsm"}))
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
    raise_problems(found)
    return Contest(settings, benchmark, tuple(entries), tuple(scorers), base, asked, files)


def backbone_settings(config: BackboneConfig) -> BackboneSettings:
    """The settings a backbone would run with; no weights are read."""
    with torch.device("meta"):
        return backbone_class(config).without_weights(config).settings


def question_digests(benchmark: Benchmark, size_px: int) -> dict[str, str]:
    """What each question's pictures follow from beside the model: its prompt and its reference's pixels.

    Loads every reference once, so one that cannot be read is found. Raises ValueError naming all of these.
    """
    pixels: dict[str, bytes] = {}
    problems = []
    for reference_id in benchmark.reference_ids:
        try:
            image = benchmark.references.load(reference_id, size_px).image
        except (ValueError, OSError) as error:
            problems.append(f"{reference_id}: {error}")
            continue
        pixels[reference_id] = blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()
    raise_problems(problems)
    return {
        f"{one.reference_id}/{one.number}": blake2b(
            one.pair.prompt.encode(), key=pixels[one.reference_id], digest_size=16
        ).hexdigest()
        for one in benchmark.questions
    }


def subject_digests(benchmark: Benchmark, size_px: int) -> dict[str, dict[str, str]]:
    """What scores follow from beside pictures and prompts: reference id -> its mask and its views, digests by name."""
    found = {}
    for reference_id in benchmark.reference_ids:
        mask = benchmark.references.load(reference_id, size_px).mask
        digests = {f"mask of {reference_id}": _digest(mask.contiguous().numpy().tobytes())}
        if views := benchmark.views.get(reference_id, ()):
            pictures = [view.load() for view in views]
            seen = b"".join(repr(one.size).encode() + one.tobytes() for one in pictures)
            digests[f"views of {reference_id}"] = _digest(seen)
        found[reference_id] = digests
    return found


def check_pictures(
    contest: Contest, output: Path, questions: Mapping[str, str], subjects: Mapping[str, Mapping[str, str]]
) -> dict[str, MadeWith]:
    """What every entry's pictures follow from. Raises ValueError where other ones are there (made.py).

    questions, subjects: see `question_digests` and `subject_digests`.
    """
    masks = {name: digest for one in subjects.values() for name, digest in one.items() if name[:5] == "mask "}
    made = {entry.name: contest.made_with(entry, questions, masks) for entry in contest.entries}
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
        if place in seen:
            problems.append(f"{question.reference_id}: has two questions of number {question.number}")
        seen.add(place)
    return problems


def _file_digest(path: Path) -> str:
    return _digest(path.read_bytes())


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=16).hexdigest()
