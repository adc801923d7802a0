"""All that an evaluation says, in one place: every column's means and differences, marks and flags."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations

from ..contest.evaluated import Asked, Evaluation, Model
from .columns import Column, columns_of
from .ranking import Mark, is_rewarded, marks
from .tallies import Estimate, Tally, tally


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One model in one column."""

    estimate: Estimate
    mark: Mark | None
    is_rewarded: bool


@dataclass(frozen=True)
class Standings:
    """Lazy: what is asked for is worked out once. seed: of the bootstrap."""

    evaluation: Evaluation
    seed: int = 0
    _tallies: dict[str, Tally] = field(default_factory=dict, repr=False, compare=False)
    _means: dict[tuple[str, str], Estimate] = field(default_factory=dict, repr=False, compare=False)
    _differences: dict[tuple[str, str, str], Estimate] = field(
        default_factory=dict, repr=False, compare=False
    )
    _marks: dict[str, dict[str, Mark]] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Derived ones first, then every metric."""
        return columns_of(self.evaluation)

    @property
    def models(self) -> tuple[Model, ...]:
        """In the order of the evaluation: the first is what the others are compared with."""
        return self.evaluation.models

    @property
    def pairs(self) -> tuple[tuple[Model, Model], ...]:
        """(later, earlier): every two models once, each against those before it."""
        return tuple((later, earlier) for earlier, later in combinations(self.models, 2))

    def tally(self, column: Column) -> Tally:
        """The numbers of a column."""
        if column.name not in self._tallies:
            self._tallies[column.name] = tally(self.evaluation, column)
        return self._tallies[column.name]

    def mean(self, column: Column, model: Model) -> Estimate:
        """What a column says of a model."""
        key = column.name, model.name
        if key not in self._means:
            self._means[key] = self.tally(column).of(model.name, seed=self.seed)
        return self._means[key]

    def difference(self, column: Column, first: Model, second: Model) -> Estimate:
        """The first less the second, paired."""
        return self._difference(column, first.name, second.name)

    def standing(self, column: Column, model: Model) -> Standing:
        """A cell of the table."""
        if column.name not in self._marks:
            self._marks[column.name] = marks(
                column,
                {one.name: self.mean(column, one) for one in self.models},
                lambda first, second: self._difference(column, first, second),
            )
        return Standing(
            estimate=self.mean(column, model),
            mark=self._marks[column.name].get(model.name),
            is_rewarded=is_rewarded(column, model.trained_on),
        )

    @cached_property
    def measured_columns(self) -> tuple[Column, ...]:
        """The columns that say something of some model."""
        return tuple(
            column for column in self.columns if any(self.mean(column, model).n for model in self.models)
        )

    def _difference(self, column: Column, first: str, second: str) -> Estimate:
        key = column.name, first, second
        if key not in self._differences:
            self._differences[key] = self.tally(column).difference(first, second, seed=self.seed)
        return self._differences[key]


def part_of(evaluation: Evaluation, belongs: Callable[[Asked], bool]) -> Evaluation:
    """The evaluation with some of its questions."""
    return replace(evaluation, questions=tuple(one for one in evaluation.questions if belongs(one)))


def collections_of(evaluation: Evaluation) -> tuple[str, ...]:
    """The collections of its questions, in their order; none where there is but one."""
    found = tuple(dict.fromkeys(question.collection for question in evaluation.questions))
    return found if len(found) > 1 else ()
