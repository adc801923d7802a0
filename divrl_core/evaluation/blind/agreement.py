"""What came of judging blind: which model people prefer, and which metric prefers what they prefer.

- preference: of the pairs of two models that have a winner, the share that the first won. Ties and pairs of which both
  are bad are counted apart.
- agreement of a metric: of the pairs with a winner in which it sets the two pictures apart, the share in which it sets
  the same one above. Pairs with equal or undefined values are left out and counted. Metrics in which neither way is
  better, and those of a whole question's pictures, have none; a metric of identity is not asked about style.

Intervals are those of the table: bootstrap over references.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..contest.evaluated import Evaluation
from ..standings.bootstrap import UNDEFINED, Interval, ratio_interval
from ..standings.columns import Column, columns_of
from .answers import Answer, Judgement


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How the pairs of two models went. share: of the first, among those with a winner."""

    first: str
    second: str
    first_wins: int
    second_wins: int
    ties: int
    both_bad: int
    share: Interval


@dataclass(frozen=True, kw_only=True)
class MetricAgreement:
    """How often a metric sees it as people do. n: pairs that count. left_out: with a winner, but no say of it."""

    name: str
    label: str
    share: Interval
    n: int
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """All of it. metrics: best first; those without a pair last."""

    judges: tuple[str, ...]
    answers: int
    preferences: tuple[Preference, ...]
    metrics: tuple[MetricAgreement, ...]

    @property
    def summary(self) -> str:
        """Who judged how much."""
        people = "1 judge" if len(self.judges) == 1 else f"{len(self.judges)} judges"
        pairs = "1 pair" if self.answers == 1 else f"{self.answers:,} pairs"
        return f"{people}, {pairs} of pictures, shown in random order and on random sides, without names."


def agreement_of(
    evaluation: Evaluation, judgements: Sequence[Judgement], *, seed: int = 0
) -> Agreement | None:
    """What all judges together say; None where nobody has answered."""
    answers = [answer for judgement in judgements for answer in judgement.answers]
    if not answers:
        return None
    metrics = [
        _agreement(evaluation, column, answers, seed)
        for column in columns_of(evaluation)
        if column.sign and not column.of_sets and not column.is_derived
    ]
    models = [model.name for model in evaluation.models]
    preferences = [_preference(later, earlier, answers, seed) for earlier, later in combinations(models, 2)]
    return Agreement(
        judges=tuple(judgement.judge for judgement in judgements if judgement.answers),
        answers=len(answers),
        preferences=tuple(
            one for one in preferences if one.first_wins + one.second_wins + one.ties + one.both_bad
        ),
        metrics=tuple(
            sorted(metrics, key=lambda one: -one.share.value if math.isfinite(one.share.value) else math.inf)
        ),
    )


def agreement_lines(agreement: Agreement) -> list[str]:
    """The same for a terminal."""
    lines = [agreement.summary]
    for one in agreement.preferences:
        lines.append(
            f"{one.first} against {one.second}: {_with_interval(one.share)} "
            f"({one.first_wins} to {one.second_wins}, {one.ties} ties, {one.both_bad} both bad)"
        )
    lines += [f"{one.label}: agrees in {_with_interval(one.share)} of {one.n}" for one in agreement.metrics]
    return lines


def _preference(first: str, second: str, answers: Sequence[Answer], seed: int) -> Preference:
    met = [one for one in answers if {one.left, one.right} == {first, second}]
    decided = [one for one in met if one.winner is not None]
    return Preference(
        first=first,
        second=second,
        first_wins=sum(one.winner == first for one in decided),
        second_wins=sum(one.winner == second for one in decided),
        ties=sum(one.answer == "tie" for one in met),
        both_bad=sum(one.answer == "bad" for one in met),
        share=_share([one.winner == first for one in decided], decided, seed),
    )


def _agreement(
    evaluation: Evaluation, column: Column, answers: Sequence[Answer], seed: int
) -> MetricAgreement:
    styles = {(one.reference_id, one.number) for one in evaluation.questions if not column.counts(one)}
    decided = [
        one
        for one in answers
        if one.winner is not None and (one.place.reference_id, one.place.number) not in styles
    ]
    said = [(one, _prefers(evaluation, column, one)) for one in decided]
    counted = [(one, model) for one, model in said if model is not None]
    return MetricAgreement(
        name=column.name,
        label=column.label,
        share=_share([one.winner == model for one, model in counted], [one for one, _ in counted], seed),
        n=len(counted),
        left_out=len(decided) - len(counted),
    )


def _prefers(evaluation: Evaluation, column: Column, answer: Answer) -> str | None:
    """The model whose picture the metric sets above; None where it does not say."""
    values = [
        evaluation.values.get(model, {}).get(answer.place, {}).get(column.name, math.nan)
        for model in (answer.left, answer.right)
    ]
    if not all(map(math.isfinite, values)) or values[0] == values[1]:
        return None
    return answer.left if (values[0] - values[1]) * column.sign > 0 else answer.right


def _share(is_so: Sequence[bool], of: Sequence[Answer], seed: int) -> Interval:
    if not of:
        return UNDEFINED
    names = list(dict.fromkeys(one.place.reference_id for one in of))
    places = {name: place for place, name in enumerate(names)}
    references = np.array([places[one.place.reference_id] for one in of], dtype=np.int64)
    return ratio_interval(np.array(is_so, float), np.ones(len(of)), references, seed=seed)


def share_words(value: float) -> str:
    """A share in per cent; n/a for one that is undefined."""
    return f"{value:.0%}" if math.isfinite(value) else "n/a"


def shares_words(share: Interval) -> str:
    """[61%, 81%]; nothing where there is no interval."""
    return f"[{share_words(share.low)},\u00a0{share_words(share.high)}]" if share.is_known else ""


def _with_interval(share: Interval) -> str:
    return " ".join(part for part in (share_words(share.value), shares_words(share)) if part)
