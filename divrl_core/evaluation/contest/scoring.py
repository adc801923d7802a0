"""Scores of all models: one scorer after the other, loaded and let go, reference by reference.

A reference is prepared once a scorer, however many models and pictures there are. Rows are appended a model and
reference at a time; a question whose rows are all there is not scored again. Of several processes each takes every N-th
reference and writes files of its own (`records.part_file`), which the next start gathers.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ...training.processes import Processes
from ..benchmarks.base import Question
from ..metrics.base import Scorer, Shot, Values
from .evaluated import scores_file
from .records import Place, ScoreRow, append_scores, part_file, read_all_scores
from .shown import Shown
from .sources import ScorerSource

OnScored = Callable[[str, str, str], None]
"""Told a scorer's, a model's and a reference's name when the scores are on the disk; may raise to stop."""


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """What is to be scored. models: names."""

    shown: Shown
    models: Sequence[str]
    pictures_each: int
    processes: Processes

    def score(self, sources: Sequence[ScorerSource], on_scored: OnScored = lambda *names: None) -> None:
        """Score what is not scored yet. A scorer that has nothing to do is not loaded.

        Raises ValueError where a scorer gives other metrics or numbers of values than it promised.
        """
        for source in sources:
            todo = self.missing(source)
            if todo:
                self._with_scorer(source, todo, on_scored)

    def missing(self, source: ScorerSource) -> dict[str, dict[str, list[Question]]]:
        """This process's unscored questions: reference id -> model -> questions."""
        found: dict[str, dict[str, list[Question]]] = {}
        done = {model: self._done(model, source.name) for model in self.models}
        own = self.shown.benchmark.reference_ids[self.processes.index :: self.processes.count]
        by_reference = self._questions
        for reference_id in own:
            models = {
                model: [q for q in by_reference[reference_id] if not self._places(q, source) <= done[model]]
                for model in self.models
            }
            if left := {model: questions for model, questions in models.items() if questions}:
                found[reference_id] = left
        return found

    def _with_scorer(
        self, source: ScorerSource, todo: Mapping[str, Mapping[str, list[Question]]], on_scored: OnScored
    ) -> None:
        scorer = source.load(self.processes.device)
        progress = tqdm(todo.items(), desc=source.name, unit="reference", disable=not self.processes.is_main)
        for reference_id, models in progress:
            prepared = scorer.prepare(self.shown.subject(reference_id))
            for model, questions in models.items():
                rows = self._rows(scorer, model, questions, prepared)
                append_scores(part_file(self._file(model), self.processes.index), rows)
                on_scored(source.name, model, reference_id)
        del scorer
        _free(self.processes.device)

    def _rows(
        self, scorer: Scorer, model: str, questions: Sequence[Question], prepared: object
    ) -> list[ScoreRow]:
        shots = [
            shot for question in questions for shot in self.shown.shots(model, question, self.pictures_each)
        ]
        with torch.no_grad():
            values = scorer.score(shots, prepared)
        try:
            return list(rows_of(scorer, questions, shots, values))
        except ValueError as error:
            raise ValueError(f"{scorer.name}, {model}, {questions[0].reference_id}: {error}") from error

    @property
    def _questions(self) -> dict[str, list[Question]]:
        found: dict[str, list[Question]] = {}
        for question in self.shown.benchmark.questions:
            found.setdefault(question.reference_id, []).append(question)
        return found

    def _places(self, question: Question, source: ScorerSource) -> set[Place]:
        """The places that have a row once a question is scored."""
        sets = [None] if any(metric.of_sets for metric in source.metrics) else []
        return {_place(question, k) for k in (*range(self.pictures_each), *sets)}

    def _done(self, model: str, scorer: str) -> set[Place]:
        rows = read_all_scores(self._file(model))
        return {row.place for row in rows if row.scorer == scorer}

    def _file(self, model: str) -> Path:
        return scores_file(self.shown.output, model)


def rows_of(
    scorer: Scorer, questions: Sequence[Question], shots: Sequence[Shot], values: Values
) -> Iterator[ScoreRow]:
    """A scorer's answer as rows: one a picture, and where it gives metrics of sets one a question.

    A metric that it left out is in no row. A picture has its row also where only sets are measured: so more pictures
    of a question are seen to be missing, and it is scored again as a whole.

    Raises ValueError for a metric that it does not have, a wrong number of values, or an infinite one.
    """
    of_sets = {metric.name: metric.of_sets for metric in scorer.metrics}
    columns = {
        name: _column(name, found.tolist(), of_sets, questions, shots) for name, found in values.items()
    }
    for row, shot in enumerate(shots):
        single = {name: column[row] for name, column in columns.items() if not of_sets[name]}
        yield ScoreRow(place=_place(shot.question, shot.k), scorer=scorer.name, values=single)
    if any(of_sets.values()):
        for row, question in enumerate(questions):
            whole = {name: column[row] for name, column in columns.items() if of_sets[name]}
            yield ScoreRow(place=_place(question, None), scorer=scorer.name, values=whole)


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


def _free(device: torch.device) -> None:
    gc.collect()  # transformers' modules refer to themselves
    if device.type == "cuda":
        torch.cuda.empty_cache()
