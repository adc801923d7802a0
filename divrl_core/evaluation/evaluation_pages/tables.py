"""The tables, before they are written in any form: a row a metric, a column a model or a pair of models.

So a table fits a page whatever the number of metrics. What stands under it names every model and every network.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ..contest.evaluated import Model
from ..standings.bootstrap import LEVEL, RESAMPLES
from ..standings.columns import Column
from ..standings.ranking import Mark, moved
from ..standings.standings import Standings, collections_of, part_of
from ..standings.tallies import Estimate
from ..standings.verdict import column_digits, interval_words
from ..words import number, signed

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
WAYS = {"higher": "higher is better", "lower": "lower is better", "neither": "neither way is better"}
REWARDED = "†"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A number as it is printed, with its interval ("" where there is none) and what it rests on.

    is_moved: of a difference, that it is beyond noise.
    """

    text: str
    interval: str
    estimate: Estimate
    mark: Mark | None = None
    is_rewarded: bool = False
    is_difference: bool = False
    is_moved: bool = False


@dataclass(frozen=True, kw_only=True)
class Row:
    """part: a collection's name, or ""."""

    column: Column
    cells: tuple[Cell, ...]
    part: str = ""

    @property
    def label(self) -> str:
        """The metric with an arrow towards better."""
        arrow = ARROWS[self.column.better]
        label = f"{self.column.label} {arrow}" if arrow else self.column.label
        return f"{label} · {self.part}" if self.part else label

    @property
    def n(self) -> str:
        """How many values its cells are of: one number where that is the same for all, else fewest and most."""
        counts = [cell.estimate.n for cell in self.cells]
        fewest, most = min(counts), max(counts)
        return f"{fewest:,}" if fewest == most else f"{fewest:,}–{most:,}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """foot: paragraphs."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    foot: tuple[str, ...]


def main_table(standings: Standings) -> Table:
    """Every metric of every model."""
    return Table(
        name="main",
        title=f"{standings.evaluation.benchmark}: every measure",
        header=_names(standings),
        rows=mean_rows(standings, standings.measured_columns),
        foot=foot(standings, standings.measured_columns),
    )


def family_tables(standings: Standings) -> list[Table]:
    """One a family of metrics."""
    tables = []
    for family in dict.fromkeys(column.family for column in standings.measured_columns):
        columns = [column for column in standings.measured_columns if column.family == family]
        tables.append(
            Table(
                name=f"family-{family.replace(' ', '-')}",
                title=f"{standings.evaluation.benchmark}: {family}",
                header=_names(standings),
                rows=mean_rows(standings, columns),
                foot=foot(standings, columns),
            )
        )
    return tables


def collections_table(standings: Standings) -> Table | None:
    """Every metric in every collection; None where there is but one."""
    collections = collections_of(standings.evaluation)
    if not collections:
        return None
    columns = standings.measured_columns
    parts = {name: _of_collection(standings, name) for name in collections}
    found = [
        row
        for column in columns
        for name, part in parts.items()
        for row in mean_rows(part, [column], part=name or "no collection")
    ]
    return Table(
        name="collections",
        title=f"{standings.evaluation.benchmark}: by collection",
        header=_names(standings),
        rows=tuple(found),
        foot=foot(standings, columns),
    )


def differences_table(standings: Standings, other: Model | None = None) -> Table | None:
    """The differences of every two models, or of all later ones to one; None where there are none."""
    pairs = [pair for pair in standings.pairs if other in (None, pair[1])]
    if not pairs:
        return None
    columns = standings.measured_columns
    return Table(
        name="differences" if other is None else f"differences-to-{file_name(other.name)}",
        title=f"{standings.evaluation.benchmark}: paired differences",
        header=tuple(f"{later.name} − {earlier.name}" for later, earlier in pairs),
        rows=tuple(
            Row(column=column, cells=tuple(_difference_cell(standings, column, *pair) for pair in pairs))
            for column in columns
        ),
        foot=(
            "The same reference, prompt and noise on both sides. Bold: the interval leaves out 0. "
            f"{REWARDED} the model ahead was rewarded by it in training, or by what shows the same.",
            *foot(standings, columns)[1:],
        ),
    )


def _difference_cell(standings: Standings, column: Column, later: Model, earlier: Model) -> Cell:
    digits = column_digits(standings, column)
    difference = standings.difference(column, later, earlier)
    ahead = later if difference.value * column.sign > 0 else earlier
    return Cell(
        text=signed(difference.value, digits),
        interval=interval_words(difference, digits),
        estimate=difference,
        is_difference=True,
        is_moved=moved(difference) != 0,
        is_rewarded=bool(column.sign) and standings.standing(column, ahead).is_rewarded,
    )


def mean_rows(standings: Standings, columns: Sequence[Column], *, part: str = "") -> tuple[Row, ...]:
    """Means of all models in some columns."""
    rows = []
    for column in columns:
        digits = column_digits(standings, column)
        cells = []
        for model in standings.models:
            standing = standings.standing(column, model)
            cells.append(
                Cell(
                    text=number(standing.estimate.value, digits),
                    interval=interval_words(standing.estimate, digits),
                    estimate=standing.estimate,
                    mark=standing.mark,
                    is_rewarded=standing.is_rewarded,
                )
            )
        rows.append(Row(column=column, cells=tuple(cells), part=part))
    return tuple(rows)


def foot(standings: Standings, columns: Sequence[Column]) -> tuple[str, ...]:
    """What a table needs to be understood alone: the marks, the counts, every model, every network."""
    evaluation = standings.evaluation
    references = len({question.reference_id for question in evaluation.questions})
    return (
        f"Bold: best, and underlined: second, only where every paired difference to the models behind leaves out 0. "
        f"{REWARDED} rewarded by it in training, or by what shows the same. In brackets: {LEVEL:.0%} intervals by "
        f"bootstrap over references ({RESAMPLES:,} draws). n: values with a number, of "
        f"{len(evaluation.questions):,} questions with {evaluation.pictures_each} pictures each about {references:,} "
        "references (in some columns fewer count); undefined ones are left out.",
        f"{evaluation.benchmark}: {evaluation.source}. Seed {evaluation.seed}, {evaluation.steps} steps, masks: "
        f"{evaluation.masks}.",
        *(model_words(standings, place) for place in range(len(standings.models))),
        *(f"{column.label}: {column.sentence}" for column in columns),
        *networks(standings, columns),
        *left_out(standings, columns),
    )


def networks(standings: Standings, columns: Sequence[Column]) -> list[str]:
    """Every network with the metrics that are by it."""
    named = {name for column in columns for name in column.made_of}
    by_source: dict[str, list[str]] = {}
    for one in standings.evaluation.measured:
        if one.metric.name in named:
            by_source.setdefault(one.source, []).append(one.metric.label)
    return [f"{', '.join(labels)} by: {source.rstrip('.')}." for source, labels in by_source.items()]


def model_words(standings: Standings, place: int) -> str:
    """A model with what it is, what a picture of it costs, and what it was rewarded by."""
    model = standings.models[place]
    labels = {one.metric.name: one.metric.label for one in standings.evaluation.measured}
    cost = "" if model.evaluations is None else f" {model.evaluations:g} evaluations a picture."
    rewarded = ", ".join(labels.get(name, name) for name in model.trained_on)
    return f"{model.name}: {model.about.rstrip('.')}.{cost}" + (
        f" Rewarded by {rewarded}." if rewarded else ""
    )


def left_out(standings: Standings, columns: Sequence[Column]) -> list[str]:
    """Where values are undefined or missing, how many, column by column."""
    lines = []
    for column in columns:
        if column.is_derived:
            continue
        parts = []
        for model in standings.models:
            found = standings.mean(column, model)
            counts = [
                f"{count:,} {word}"
                for count, word in ((found.undefined, "undefined"), (found.missing, "missing"))
                if count
            ]
            if counts:
                parts.append(f"{model.name} {' and '.join(counts)}")
        if parts:
            lines.append(f"{column.label}, values left out: {'; '.join(parts)}.")
    return lines


def file_name(name: str) -> str:
    """A name as part of a file's, which LaTeX can read too; one that is changed gets what tells it from others."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name)
    return plain if plain == name else f"{plain}-{zlib.crc32(name.encode()):08x}"


def _names(standings: Standings) -> tuple[str, ...]:
    return tuple(model.name for model in standings.models)


def _of_collection(standings: Standings, name: str) -> Standings:
    part = part_of(standings.evaluation, lambda question: question.collection == name)
    return Standings(part, standings.seed)
