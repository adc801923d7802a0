"""What the numbers say, in sentences: who is better at what and by how much, what is noise, what proves nothing.

A model that leads on a column that a reward of its training was made of has only learnt what it was paid for: that is
said, and counted apart. To be behind on such a column is a finding like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..contest.evaluated import Model
from ..words import number, signed
from .bootstrap import LEAST_REFERENCES
from .columns import Column
from .ranking import moved
from .standings import Standings
from .tallies import Estimate

LARGE = 10.0  # values from here on, degrees say, have one digit after the point


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against another, column by column. unpaid: better, and not because it was rewarded so."""

    model: Model
    other: Model
    better: tuple[tuple[Column, Estimate], ...]
    worse: tuple[tuple[Column, Estimate], ...]
    rewarded: tuple[tuple[Column, Estimate], ...]
    within_noise: tuple[tuple[Column, Estimate], ...]
    neither: tuple[tuple[Column, Estimate], ...]
    unknown: tuple[Column, ...]

    @property
    def judged(self) -> int:
        """How many columns could speak for one of the two."""
        return len(self.better) + len(self.worse) + len(self.within_noise)


def compare(standings: Standings, model: Model, other: Model) -> Comparison:
    """The model less the other in every measured column."""
    found: dict[str, list[tuple[Column, Estimate]]] = {
        name: [] for name in ("better", "worse", "rewarded", "within_noise", "neither")
    }
    unknown = []
    for column in standings.measured_columns:
        difference = standings.difference(column, model, other)
        if not difference.is_known:
            unknown.append(column)
            continue
        found[_kind(standings, column, model, other, difference)].append((column, difference))
    return Comparison(
        model=model,
        other=other,
        unknown=tuple(unknown),
        **{name: tuple(columns) for name, columns in found.items()},
    )


def comparisons(standings: Standings) -> tuple[Comparison, ...]:
    """Every model against the first."""
    return tuple(compare(standings, model, standings.models[0]) for model in standings.models[1:])


def headline(standings: Standings) -> str:
    """One sentence that holds whatever came out."""
    columns, models = standings.measured_columns, standings.models
    if not columns:
        return "Nothing has been measured yet."
    if len(models) < 2:
        return f"{models[0].name} alone: there is nothing to compare it with yet."
    found = comparisons(standings)
    if not any(one.judged or one.rewarded or one.neither for one in found):
        return f"No difference can be told from noise: {LEAST_REFERENCES} references are needed for that."
    if len(found) == 1:
        return _headline_of_two(found[0])
    leads = leading(standings)
    if not leads:
        return f"No one of {len(models)} models is ahead of all others beyond noise."
    behind = {one.model.name: len(one.worse) for one in found}
    parts = [
        _lead(name, len(columns), behind.get(name, 0), models[0].name) for name, columns in leads.items()
    ]
    return f"Beyond noise, {_listed(parts)}."


def leading(standings: Standings) -> dict[str, list[Column]]:
    """Model -> the columns where it is marked best and was not rewarded for it; without those that lead nowhere."""
    leads: dict[str, list[Column]] = {}
    for column in standings.measured_columns:
        for model in standings.models:
            standing = standings.standing(column, model)
            if standing.mark == "best" and not standing.is_rewarded:
                leads.setdefault(model.name, []).append(column)
    return leads


def leads_in_words(standings: Standings) -> str:
    """Who leads on what, of three models or more; "" where nobody does."""
    leads = leading(standings)
    if len(standings.models) < 3 or not leads:
        return ""
    parts = [f"{name} leads on {_listed([one.short for one in columns])}" for name, columns in leads.items()]
    return "; ".join(parts) + "."


def sentences(comparison: Comparison) -> list[str]:
    """What a comparison says, a sentence a kind."""
    name, other = comparison.model.name, comparison.other.name
    kinds = (
        (f"Better than {other} on", comparison.better),
        (f"Worse than {other} on", comparison.worse),
        ("Moved, though neither way is better:", comparison.neither),
        (
            "The one ahead was rewarded by it in training, or by what shows the same, which proves nothing:",
            comparison.rewarded,
        ),
        ("Within noise:", comparison.within_noise),
    )
    lines = [f"{start} {_listed([_with_amount(*one) for one in found])}." for start, found in kinds if found]
    if comparison.unknown:
        lines.append(f"No interval can be given for {_listed([one.short for one in comparison.unknown])}.")
    return lines or [f"Nothing that both {name} and {other} have values of."]


def interval_words(estimate: Estimate, digits: int = 3) -> str:
    """[.264, .301], which a line never breaks; nothing where there is none."""
    if not estimate.is_known:
        return ""
    return f"[{number(estimate.low, digits)},\u00a0{number(estimate.high, digits)}]"


def difference_words(estimate: Estimate, digits: int = 3) -> str:
    """+.098 [.081, .114]."""
    interval = interval_words(estimate, digits)
    return signed(estimate.value, digits) + (f"\u00a0{interval}" if interval else "")


def digits_of(*values: float) -> int:
    """Digits after the point: 3, or 1 where values are large."""
    known = [abs(value) for value in values if math.isfinite(value)]
    return 1 if known and max(known) >= LARGE else 3


def column_digits(standings: Standings, column: Column) -> int:
    """Digits after the point in a column, the same for all models and their differences."""
    return digits_of(*(standings.mean(column, model).value for model in standings.models))


def _kind(standings: Standings, column: Column, model: Model, other: Model, difference: Estimate) -> str:
    direction = moved(difference)
    if direction == 0:
        return "within_noise"
    if column.sign == 0:
        return "neither"
    is_ahead = direction * column.sign > 0
    if standings.standing(column, model if is_ahead else other).is_rewarded:
        return "rewarded"
    return "better" if is_ahead else "worse"


def _lead(name: str, leads: int, behind: int, first: str) -> str:
    """A lead, and what it costs: how many columns are worse than the first model's."""
    cost = f" (behind {first} on {behind})" if behind else ""
    return f"{name} leads on {_count(leads)}{cost}"


def _headline_of_two(comparison: Comparison) -> str:
    better, worse, noise = (
        len(found) for found in (comparison.better, comparison.worse, comparison.within_noise)
    )
    if not (better or worse or comparison.rewarded):
        return f"{comparison.model.name} cannot be told from {comparison.other.name}: {_count(noise)} within noise."
    verdict = (
        f"{comparison.model.name} is better than {comparison.other.name} on {_count(better)} "
        f"and worse on {worse}; {noise} within noise"
    )
    if comparison.rewarded:
        verdict += f", {len(comparison.rewarded)} no proof because the one ahead was rewarded"
    return verdict + "."


def _with_amount(column: Column, difference: Estimate) -> str:
    return f"{column.short} {difference_words(difference, digits_of(difference.value))}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _count(count: int) -> str:
    return f"{count} measure" if count == 1 else f"{count} measures"
