"""One column of an evaluation as numbers: of every model and every picture that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..contest.evaluated import Evaluation
from ..contest.records import Place
from .bootstrap import Floats, Integers, Interval, difference_interval, ratio_interval
from .columns import Column

Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Estimate(Interval):
    """An interval with what it rests on.

    n: values: of a mean over some of the pictures, how many these are; of a difference the smaller number of both.
    questions, references: how many of them these are of. undefined: values that are NaN, left out. missing: values that
    are not there: not scored yet, or not to be had of that picture. Of a difference both count pairs.
    """

    n: int
    questions: int
    references: int
    undefined: int = 0
    missing: int = 0


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Rows are models in their order, columns pictures (of a metric of sets: questions).

    numerators, denominators: 0 where not known. known: it has a value. there: it was scored, perhaps as undefined.
    references, questions: a number for each picture's.
    """

    column: Column
    places: tuple[Place, ...]
    models: tuple[str, ...]
    numerators: Floats
    denominators: Floats
    known: Flags
    there: Flags
    references: Integers
    questions: Integers

    def of(self, model: str, *, seed: int = 0) -> Estimate:
        """What the column says of a model."""
        row = self.models.index(model)
        chosen = self.known[row]
        interval = ratio_interval(
            self.numerators[row, chosen],
            self.denominators[row, chosen],
            self.references[chosen],
            seed=seed,
        )
        return self._estimate(interval, chosen, (row,))

    def difference(self, first: str, second: str, *, seed: int = 0) -> Estimate:
        """The first model less the second, over the pictures of which both have a value."""
        rows = self.models.index(first), self.models.index(second)
        chosen = self.known[rows[0]] & self.known[rows[1]]
        one, other = ((self.numerators[row, chosen], self.denominators[row, chosen]) for row in rows)
        interval = difference_interval(one, other, self.references[chosen], seed=seed)
        return self._estimate(interval, chosen, rows)

    def _estimate(self, interval: Interval, chosen: Flags, rows: Sequence[int]) -> Estimate:
        counted = [chosen & (self.denominators[row] > 0) for row in rows]
        fewest = min(counted, key=lambda flags: int(flags.sum()))
        there = np.logical_and.reduce([self.there[row] for row in rows])
        return Estimate(
            value=interval.value,
            low=interval.low,
            high=interval.high,
            n=int(fewest.sum()),
            questions=len(np.unique(self.questions[fewest])),
            references=len(np.unique(self.references[fewest])),
            undefined=int((there & ~chosen).sum()),
            missing=int((~there).sum()),
        )


def tally(evaluation: Evaluation, column: Column) -> Tally:
    """A column's numbers, in the order of the questions."""
    asked = [question for question in evaluation.questions if column.counts(question)]
    numbers = (None,) if column.of_sets else range(evaluation.pictures_each)
    places = tuple(
        Place(reference_id=question.reference_id, number=question.number, k=k)
        for question in asked
        for k in numbers
    )
    models = tuple(model.name for model in evaluation.models)
    shape = len(models), len(places)
    numerators, denominators = np.zeros(shape), np.zeros(shape)
    known, there = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, model in enumerate(models):
        found = evaluation.values.get(model, {})
        for number, place in enumerate(places):
            values = found.get(place, {})
            there[row, number] = all(name in values for name in column.made_of)
            weighed = column.weigh(values)
            if weighed is not None:
                numerators[row, number], denominators[row, number] = weighed
                known[row, number] = True
    return Tally(
        column=column,
        places=places,
        models=models,
        numerators=numerators,
        denominators=denominators,
        known=known,
        there=there,
        references=_numbered([place.reference_id for place in places]),
        questions=_numbered([(place.reference_id, place.number) for place in places]),
    )


def _numbered(names: Sequence[object]) -> Integers:
    """A number for each name, the same for equal ones."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], dtype=np.int64)
