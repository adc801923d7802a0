"""Every evaluated picture of a demo as a card: a reference and what each model made of it from the same noise.

Cards can be put in other orders, worst cases first; each knows its place in every order, so that the page needs no
script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .comparison import ComparedPicture
from .demo_pictures import PICTURES, picture_path
from .paired import TRUTHS, Sample, is_defined
from .results import ModelResult


@dataclass(frozen=True, kw_only=True)
class Card:
    """One reference and prompt with each model's picture; `places`: its place in each order, from 0."""

    reference: Path
    prompt: str
    results: Mapping[str, ComparedPicture]
    places: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Order:
    """A way to sort the cards: by a number of the last model's sample, smallest first; undefined ones come first."""

    key: str
    label: str
    value: Callable[[Sample], float | None]


DRAWN = Order(key="drawn", label="as drawn", value=lambda sample: 0.0)
MEASURED_ORDERS = (
    DRAWN,
    Order(key="identity", label="lowest VSM first", value=lambda sample: sample.get("vsm")),
    Order(key="pose", label="lowest nSSM first", value=lambda sample: sample.get("nssm")),
)
TRUE_ORDERS = (
    DRAWN,
    Order(
        key="identity", label="largest identity error first", value=lambda sample: -sample["identity_error"]
    ),
    Order(key="pose", label="smallest change of pose first", value=lambda sample: sample["pose_change_deg"]),
    Order(
        key="fooled",
        label="broken, yet high VSM first",
        value=lambda sample: sample["clean"] * 2 - _or_zero(sample.get("vsm")),
    ),
)


def picture_cards(folder: Path, results: Sequence[ModelResult]) -> tuple[list[Card], tuple[Order, ...]]:
    """The cards of a demo folder and the orders they know; none when a picture is missing, as in older folders."""
    pictures = folder / PICTURES
    if not results or len({len(result.samples) for result in results}) != 1:
        return [], ()
    files = [
        [picture_path(pictures, result.name, number) for result in results]
        for number in range(len(results[0].samples))
    ]
    last = results[-1].samples
    references = [pictures / "references" / f"{sample['reference_id']}.png" for sample in last]
    if not files or not all(path.is_file() for row in (references, *files) for path in row):
        return [], ()
    known = all(is_defined(sample.get("clean")) for result in results for sample in result.samples)
    orders = TRUE_ORDERS if known else MEASURED_ORDERS
    places = {order.key: _places([order.value(sample) for sample in last]) for order in orders}
    cards = [
        Card(
            reference=references[number],
            prompt=str(sample["prompt"]),
            results={
                result.name: _compared(path, result.samples[number])
                for result, path in zip(results, files[number], strict=True)
            },
            places={key: order[number] for key, order in places.items()},
        )
        for number, sample in enumerate(last)
    ]
    return cards, orders


def _compared(path: Path, sample: Sample) -> ComparedPicture:
    return ComparedPicture(path=path, **{name: sample.get(name) for name in ("nssm", "vsm", *TRUTHS)})


def _places(values: Sequence[float | None]) -> list[int]:
    """Each value's place when sorted, equal ones in the order given; undefined ones first."""
    keys = [-math.inf if value is None or math.isnan(value) else value for value in values]
    by_value = sorted(range(len(keys)), key=keys.__getitem__)
    places = [0] * len(keys)
    for place, index in enumerate(by_value):
        places[index] = place
    return places


def _or_zero(value: float | None) -> float:
    return value if value is not None and is_defined(value) else 0.0
