"""The columns of the table: every measured metric, and what is derived from two of them.

- consistency ratio: the share of pictures whose identity measure lies above a cut-off.
- diversity over consistency: the mean structural difference of just these pictures.

In domain that is VSM and nSSM at the evaluation's cut-off, out of domain sDINO and DINO-nSSM at .75 (METHOD.md,
section 4). A column gives each picture a numerator and a denominator; what it says of a model is the ratio of their
sums (bootstrap.py). A picture of which it can say nothing, because a value is undefined, has neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..consistency import is_consistent
from ..contest.evaluated import Asked, Evaluation, Measured
from ..metrics.base import Direction, Family

Weighed = tuple[float, float] | None
"""Numerator and denominator of one picture; None = undefined."""


@dataclass(frozen=True, kw_only=True)
class Axes:
    """What a trade-off plane is made of: metrics by name, and the words for them. prefix: of its columns' names."""

    name: str
    title: str
    identity: str
    structure: str
    prefix: str = ""
    cutoff: float | None = None  # None: the evaluation's

    @property
    def where(self) -> str:
        """What tells its columns from those of the plane in domain, in sentences."""
        return "" if self.cutoff is None else f" {self.title.lower()}"

    @property
    def consistency(self) -> str:
        """The name of the derived column across."""
        return f"{self.prefix}consistency_ratio"

    @property
    def diversity(self) -> str:
        """The name of the derived column up."""
        return f"{self.prefix}diversity_over_consistency"


PLANES = (
    Axes(name="in_domain", title="In domain", identity="vsm", structure="nssm"),
    Axes(
        name="out_of_domain",
        title="Out of domain",
        identity="sdino",
        structure="dino_nssm",
        prefix="dino_",
        cutoff=0.75,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. made_of: the metrics behind it. sources: the networks behind these. cutoff: of a derived one.

    label: in tables. short: in sentences. shows: of made_of, the metric whose values it shows, so that a reward made of
    that one is a reward of the column; the other only chooses pictures.
    """

    name: str
    label: str
    short: str
    meaning: str
    better: Direction
    family: Family
    made_of: tuple[str, ...]
    shows: str
    sources: tuple[str, ...]
    of_sets: bool
    counts_style: bool
    weigh: Callable[[Mapping[str, float]], Weighed]
    cutoff: float | None = None

    @property
    def sentence(self) -> str:
        """Its meaning, from a capital letter to a full stop."""
        return f"{self.meaning[:1].upper()}{self.meaning[1:].rstrip('.')}."

    @property
    def is_derived(self) -> bool:
        """Whether it is made of metrics, rather than one."""
        return self.cutoff is not None

    @property
    def group(self) -> str:
        """The heading that it stands under where all columns are shown."""
        return "consistency and diversity" if self.is_derived else self.family

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is, 0 where neither."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.better]

    @property
    def source(self) -> str:
        """The networks behind it, in words."""
        return "; ".join(dict.fromkeys(self.sources))

    def counts(self, question: Asked) -> bool:
        """Whether it counts the pictures of a question."""
        return self.counts_style or not question.is_style


def columns_of(evaluation: Evaluation) -> tuple[Column, ...]:
    """The derived columns that the measured metrics allow, then every metric, family after family."""
    measured = {one.metric.name: one for one in evaluation.measured}
    families = list(dict.fromkeys(one.metric.family for one in evaluation.measured))
    in_families = sorted(evaluation.measured, key=lambda one: families.index(one.metric.family))
    derived = [
        column
        for axes in PLANES
        if axes.identity in measured and axes.structure in measured
        for column in _derived(axes, measured, _cutoff(axes, evaluation))
    ]
    return (*derived, *(_plain(one) for one in in_families))


def _cutoff(axes: Axes, evaluation: Evaluation) -> float:
    return evaluation.cutoff if axes.cutoff is None else axes.cutoff


def _plain(one: Measured) -> Column:
    metric = one.metric

    def weigh(values: Mapping[str, float]) -> Weighed:
        value = values.get(metric.name, math.nan)
        return (value, 1.0) if math.isfinite(value) else None

    return Column(
        name=metric.name,
        label=metric.label,
        short=metric.label,
        meaning=metric.meaning,
        better=metric.better,
        family=metric.family,
        made_of=(metric.name,),
        shows=metric.name,
        sources=(one.source,),
        of_sets=metric.of_sets,
        counts_style=metric.counts_style,
        weigh=weigh,
    )


def _derived(axes: Axes, measured: Mapping[str, Measured], cutoff: float) -> tuple[Column, Column]:
    identity, structure = measured[axes.identity], measured[axes.structure]
    above = f"{identity.metric.label} > {_short(cutoff)}"
    counts_style = identity.metric.counts_style and structure.metric.counts_style

    def share(values: Mapping[str, float]) -> Weighed:
        found = values.get(axes.identity, math.nan)
        return (float(is_consistent(found, cutoff)), 1.0) if math.isfinite(found) else None

    def diversity(values: Mapping[str, float]) -> Weighed:
        found, moved = (values.get(name, math.nan) for name in (axes.identity, axes.structure))
        if not (math.isfinite(found) and math.isfinite(moved)):
            return None
        return (moved, 1.0) if is_consistent(found, cutoff) else (0.0, 0.0)

    consistency_column = Column(
        name=axes.consistency,
        label=f"Consistency ratio ({above})",
        short=f"consistency ratio{axes.where}",
        meaning=f"share of pictures with {above}",
        better="higher",
        family=identity.metric.family,
        made_of=(axes.identity,),
        shows=axes.identity,
        sources=(identity.source,),
        of_sets=False,
        counts_style=identity.metric.counts_style,
        weigh=share,
        cutoff=cutoff,
    )
    diversity_column = Column(
        name=axes.diversity,
        label=f"Diversity over consistency ({structure.metric.label} where {above})",
        short=f"diversity over consistency{axes.where}",
        meaning=f"mean {structure.metric.label} of the pictures with {above}",
        better="higher",
        family=structure.metric.family,
        made_of=(axes.identity, axes.structure),
        shows=axes.structure,
        sources=(structure.source, identity.source),
        of_sets=False,
        counts_style=counts_style,
        weigh=diversity,
        cutoff=cutoff,
    )
    return consistency_column, diversity_column


def _short(value: float) -> str:
    return f"{value:g}".removeprefix("0") or "0"
