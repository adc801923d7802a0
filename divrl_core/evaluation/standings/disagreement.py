"""Pictures in the order in which models differ on them: where one fails first, then the widest apart.

A picture fails where a model's value is undefined or missing while another's is not, or, where a cut-off of the metric
is known, where one model lies above it and another at or below: one keeps the subject, the other loses it. Questions
of style come last where the metric does not count them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..consistency import is_consistent
from ..contest.evaluated import Asked, Evaluation
from ..contest.records import Place
from ..metrics.base import Metric
from .columns import PLANES


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """One picture of every model. values: by model, NaN where there is none. spread: largest less smallest."""

    question: Asked
    place: Place
    values: Mapping[str, float]
    spread: float
    is_failure: bool


def by_disagreement(evaluation: Evaluation, metric: Metric) -> list[Disagreement]:
    """Every picture that was asked for, failures first, then by spread; equal ones in the order of the questions."""
    cutoff = cutoff_of(evaluation, metric.name)
    found = []
    for question in evaluation.questions:
        for k in range(evaluation.pictures_each):
            place = Place(reference_id=question.reference_id, number=question.number, k=k)
            values = {
                model.name: evaluation.values.get(model.name, {}).get(place, {}).get(metric.name, math.nan)
                for model in evaluation.models
            }
            counts = metric.counts_style or not question.is_style
            found.append(_disagreement(question, place, values, cutoff, counts))
    return sorted(found, key=lambda one: (not one.is_failure, -one.spread))


def cutoff_of(evaluation: Evaluation, metric: str) -> float | None:
    """The value above which a picture is consistent by a metric; None for one that says nothing of that."""
    for axes in PLANES:
        if axes.identity == metric:
            return evaluation.cutoff if axes.cutoff is None else axes.cutoff
    return None


def chosen_metric(evaluation: Evaluation, name: str | None = None) -> Metric | None:
    """The metric of single pictures that is named, else consistency's own, else the first; None without any.

    Raises ValueError for a name that is none.
    """
    if name is not None and (problems := sorting_problems(name, (one.metric for one in evaluation.measured))):
        raise ValueError(problems[0])
    metrics = {one.metric.name: one.metric for one in evaluation.measured if not one.metric.of_sets}
    wanted = [name] if name is not None else [axes.identity for axes in PLANES]
    return next((metrics[one] for one in (*wanted, *metrics) if one in metrics), None)


def sorting_problems(name: str, metrics: Iterable[Metric]) -> list[str]:
    """Why pictures cannot be sorted by a metric of this name, a line; none where they can."""
    known = [metric.name for metric in metrics if not metric.of_sets]
    if name in known:
        return []
    return [
        f"pictures cannot be sorted by {name}: expected one of {', '.join(known) or 'none'}; "
        "take a metric of single pictures that is measured"
    ]


def _disagreement(
    question: Asked, place: Place, values: Mapping[str, float], cutoff: float | None, counts: bool
) -> Disagreement:
    known: Sequence[float] = [value for value in values.values() if math.isfinite(value)]
    spread = max(known) - min(known) if counts and len(known) > 1 else 0.0
    parted = cutoff is not None and len({is_consistent(value, cutoff) for value in known}) > 1
    return Disagreement(
        question=question,
        place=place,
        values=values,
        spread=spread,
        is_failure=counts and (parted or 0 < len(known) < len(values)),
    )
