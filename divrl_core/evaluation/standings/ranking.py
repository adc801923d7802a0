"""Who is marked in a column: the best, the second, and nobody where it is within noise.

Of the models with a value, in the order of their values (best first):

- **best** is the first, if its paired difference to each model behind it leaves out 0 in its favour;
- **second** is the second, if there is a best, and its difference to each model behind it does so too. With two models
  there is nobody behind the second, so it is not marked.

A difference that would be printed as .000 counts as none. Columns in which neither way is better have no marks. A
column a model was rewarded by in its training is flagged for that model, marked or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ..paired import LEAST_DIFFERENCE
from .bootstrap import Interval
from .columns import Column

Mark = Literal["best", "second"]


def marks(
    column: Column, values: Mapping[str, Interval], difference: Callable[[str, str], Interval]
) -> dict[str, Mark]:
    """The marks of a column by model. difference(a, b): a less b, paired."""
    order = in_order(column, values)
    if len(order) < 2:
        return {}

    def leads(place: int) -> bool:
        return all(favours(column, difference(order[place], behind)) > 0 for behind in order[place + 1 :])

    if not leads(0):
        return {}
    found: dict[str, Mark] = {order[0]: "best"}
    if len(order) > 2 and leads(1):
        found[order[1]] = "second"
    return found


def in_order(column: Column, values: Mapping[str, Interval]) -> list[str]:
    """The models that have a value, best first; none where neither way is better. Equal ones as they are given."""
    known = [name for name, one in values.items() if math.isfinite(one.value)]
    return sorted(known, key=lambda name: -column.sign * values[name].value) if column.sign else []


def favours(column: Column, difference: Interval) -> int:
    """+1 where a difference beyond noise speaks for the first model, -1 for the second, else 0."""
    return column.sign * moved(difference)


def moved(difference: Interval) -> int:
    """+1 or -1 where a difference is beyond noise, whichever way is better; else 0."""
    return difference.side_of(0) if abs(difference.value) > LEAST_DIFFERENCE else 0


def is_rewarded(column: Column, trained_on: Sequence[str]) -> bool:
    """Whether a reward was made of what the column shows."""
    return column.shows in trained_on
