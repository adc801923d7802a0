"""Scores of all models: one scorer after the other, loaded and let go, reference by reference.

A reference is prepared once a scorer, however many models and pictures there are. Rows are appended a model and
reference at a time; a question whose rows are all there is not scored again. Of several processes each takes every N-th
reference and writes files of its own (`records.part_file`), which the next start gathers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ...training.model_masks import free_memory
from ...training.processes import Processes
from ..benchmarks.base import Question
from ..metrics.base import Metric, Scorer, Shot, Values
from .evaluated import scores_file
from .records import Place, ScoreRow, append_scores, part_file, read_all_scores
from .shown import Shown
from .sources import ScorerSource, is_kept, keep_scorer

OnScored = Callable[[str, str, str], None]
"""Told a scorer's, a model's and a reference's name when the scores are on the disk; may raise to stop."""
OnLoaded = Callable[[str], None]
"""Told a scorer's name when it is loaded, and what it is has been kept."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is to be scored. models: names."""

    shown: Shown
    models: Sequence[str]
    pictures_each: int
    processes: Processes

    def score(
        self,
        sources: Sequence[ScorerSource],
        on_scored: OnScored = lambda scorer, model, reference_id: None,
        on_loaded: OnLoaded = lambda scorer: None,
    ) -> None:
        """Score what is not scored yet. A scorer that has nothing to do is not loaded.

        Raises ValueError where a scorer gives metrics that it does not have or another number of values, and where the
        folder's scores are of another network.
        """
        for source in sources:
            if todo := self.missing(source):
                scorer = source.load(self.processes.device)
                keep_scorer(self.shown.output, source, scorer)
                on_loaded(source.name)
                self._score(source.name, scorer, todo, on_scored)
                del scorer
                free_memory(self.processes.device)
            self.processes.wait()

    def missing(self, source: ScorerSource) -> dict[str, dict[str, list[Question]]]:
        """This process's unscored questions: reference id -> model -> questions."""
        found: dict[str, dict[str, list[Question]]] = {}
        known = is_kept(self.shown.output, source)
        done = {model: self._done(model, source.name) if known else set() for model in self.models}
        own = self.shown.benchmark.reference_ids[self.processes.index :: self.processes.count]
        by_reference = self._questions
        for reference_id in own:
            models = {
                model: [q for q in by_reference[reference_id] if not self._places(q) <= done[model]]
                for model in self.models
            }
            if left := {model: questions for model, questions in models.items() if questions}:
                found[reference_id] = left
        return found

    def _score(
        self, name: str, scorer: Scorer, todo: Mapping[str, Mapping[str, list[Question]]], on_scored: OnScored
    ) -> None:
        progress = tqdm(todo.items(), desc=name, unit="reference", disable=not self.processes.is_main)
        for reference_id, models in progress:
            prepared = scorer.prepare(self.shown.subject(reference_id))
            for model, questions in models.items():
                rows = self._rows(name, scorer, model, questions, prepared)
                append_scores(part_file(self._file(model), self.processes.index), rows)
                on_scored(name, model, reference_id)

    def _rows(
        self, name: str, scorer: Scorer, model: str, questions: Sequence[Question], prepared: object
    ) -> list[ScoreRow]:
        shots = [
            shot for question in questions for shot in self.shown.shots(model, question, self.pictures_each)
        ]
        with torch.no_grad():
            values = scorer.score(shots, prepared)
        try:
            return list(rows_of(name, scorer.metrics, questions, shots, values))
        except ValueError as error:
            raise ValueError(f"{name}, {model}, {questions[0].reference_id}: {error}") from error

    @property
    def _questions(self) -> dict[str, list[Question]]:
        found: dict[str, list[Question]] = {}
        for question in self.shown.benchmark.questions:
            found.setdefault(question.reference_id, []).append(question)
        return found

    def _places(self, question: Question) -> set[Place]:
        """The places that have a row once a question is scored."""
        return {_place(question, k) for k in (*range(self.pictures_each), None)}

    def _done(self, model: str, scorer: str) -> set[Place]:
        rows = read_all_scores(self._file(model))
        return {row.place for row in rows if row.scorer == scorer}

    def _file(self, model: str) -> Path:
        return scores_file(self.shown.output, model)


def rows_of(
    name: str,
    metrics: Sequence[Metric],
    questions: Sequence[Question],
    shots: Sequence[Shot],
    values: Values,
) -> Iterator[ScoreRow]:
    """A scorer's answer as rows: one a picture and one a question, for its set.

    A metric that it left out is in no row. There is a row also where it has nothing to say: so what is scored is known
    without the scorer, and with more pictures of a question its set is measured again. Sets come first: cut off
    anywhere by a kill, a question lacks a row of a picture and is scored again; no row of a smaller set is left.

    Raises ValueError for a metric that it does not have, a wrong number of values, or an infinite one.
    """
    of_sets = {metric.name: metric.of_sets for metric in metrics}
    columns = {
        metric: _column(metric, found.tolist(), of_sets, questions, shots) for metric, found in values.items()
    }
    for row, question in enumerate(questions):
        whole = {metric: column[row] for metric, column in columns.items() if of_sets[metric]}
        yield ScoreRow(place=_place(question, None), scorer=name, values=whole)
    for row, shot in enumerate(shots):
        single = {metric: column[row] for metric, column in columns.items() if not of_sets[metric]}
        yield ScoreRow(place=_place(shot.question, shot.k), scorer=name, values=single)


def _column(
    name: str,
    values: list[float],
    of_sets: Mapping[str, bool],
    questions: Sequence[Question],
    shots: Sequence[Shot],
) -> list[float]:
    if name not in of_sets:
        raise ValueError(f"the scorer gave {name}, which is none of its metrics ({', '.join(of_sets)})")
    expected = len(questions) if of_sets[name] else len(shots)
    if len(values) != expected:
        raise ValueError(f"the scorer gave {len(values)} values of {name} for {expected}")
    if any(math.isinf(value) for value in values):
        raise ValueError(f"{name} of a picture is infinite")
    return values


def _place(question: Question, k: int | None) -> Place:
    return Place(reference_id=question.reference_id, number=question.number, k=k)
