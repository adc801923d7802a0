"""Every picture of an evaluation as a card of its page: the reference, and what each model made of one question.

The page sorts and filters them itself, from the values that go along; without a script they stand in the order in
which they are made here, the greatest disagreement first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..contest.evaluated import Evaluation
from ..metrics.base import Metric
from ..paired import is_defined
from ..sheets import short_number
from ..standings.disagreement import Disagreement, by_disagreement, cutoff_of
from .thumbnails import BUDGET_BYTES, data_urls, size_for


@dataclass(frozen=True, kw_only=True)
class CardPicture:
    """source: a data URL, None where there is no picture. link: to the picture itself, from the page."""

    name: str
    source: str | None
    link: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """One question's k-th pictures."""

    title: str
    collection: str
    is_style: bool
    is_failure: bool
    reference: CardPicture
    pictures: tuple[CardPicture, ...]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """cards: those that fit. left_out: how many do not. references: the thumbnails of theirs, by their ids.

    data: what the page sorts by, as JSON.
    """

    cards: tuple[Card, ...]
    left_out: int
    references: Mapping[str, str]
    metric: Metric
    metrics: tuple[Metric, ...]
    data: Mapping[str, Any]


def cards_of(
    evaluation: Evaluation, metric: Metric, page: Path, *, budget_bytes: float = BUDGET_BYTES
) -> Cards | None:
    """The cards, thumbnails made; None where no question has its reference and a picture. page: where it will lie."""
    found = [one for one in by_disagreement(evaluation, metric) if _has_pictures(evaluation, one)]
    if not found:
        return None
    size = size_for(_all_files(evaluation, found), len(found), budget_bytes)
    shown = found[: size.shown]
    urls = data_urls(_all_files(evaluation, shown), size.side_px)
    metrics = tuple(one.metric for one in evaluation.measured if not one.metric.of_sets)
    return Cards(
        cards=tuple(_card(evaluation, metric, one, page, urls) for one in shown),
        left_out=len(found) - len(shown),
        references={
            one.place.reference_id: urls[evaluation.reference(one.place.reference_id)] for one in shown
        },
        metric=metric,
        metrics=metrics,
        data=_data(evaluation, metrics, shown),
    )


def _all_files(evaluation: Evaluation, chosen: Sequence[Disagreement]) -> list[Path]:
    """Every picture of some cards, each once: a reference is kept once in the page, however many cards show it."""
    files = [
        file
        for one in chosen
        for file in (evaluation.reference(one.place.reference_id), *_files(evaluation, one).values())
        if file.is_file()
    ]
    return list(dict.fromkeys(files))


def _has_pictures(evaluation: Evaluation, one: Disagreement) -> bool:
    return evaluation.reference(one.place.reference_id).is_file() and any(
        file.is_file() for file in _files(evaluation, one).values()
    )


def _files(evaluation: Evaluation, one: Disagreement) -> dict[str, Path]:
    return {model.name: evaluation.picture(model.name, one.place) for model in evaluation.models}


def _card(
    evaluation: Evaluation, metric: Metric, one: Disagreement, page: Path, urls: Mapping[Path, str]
) -> Card:
    reference = evaluation.reference(one.place.reference_id)
    return Card(
        title=one.question.prompt,
        collection=one.question.collection,
        is_style=one.question.is_style,
        is_failure=one.is_failure,
        reference=CardPicture(
            name=one.place.reference_id, source=None, link=link_to(reference, page), caption="reference"
        ),
        pictures=tuple(
            CardPicture(
                name=name,
                source=urls.get(file),
                link=link_to(file, page),
                caption=f"{metric.label} {short_number(one.values[name])}",
            )
            for name, file in _files(evaluation, one).items()
        ),
    )


def link_to(file: Path, page: Path) -> str:
    """A link from a page to a file."""
    return quote(Path(os.path.relpath(file, page.parent)).as_posix())


def _data(evaluation: Evaluation, metrics: Sequence[Metric], shown: Sequence[Disagreement]) -> dict[str, Any]:
    """What the script reads: metrics, and of every card the values by metric and model, None where undefined."""

    def values(one: Disagreement) -> list[list[float | None]]:
        places = [evaluation.values.get(model.name, {}).get(one.place, {}) for model in evaluation.models]
        return [[_rounded(found.get(metric.name)) for found in places] for metric in metrics]

    asked = {(one.reference_id, one.number): place for place, one in enumerate(evaluation.questions)}
    return {
        "models": [model.name for model in evaluation.models],
        "metrics": [
            {
                "name": metric.name,
                "label": metric.label,
                "sign": {"higher": 1, "lower": -1, "neither": 0}[metric.better],
                "cutoff": cutoff_of(evaluation, metric.name),
                "counts_style": metric.counts_style,
            }
            for metric in metrics
        ],
        "cards": [
            {
                "at": asked[one.place.reference_id, one.place.number] * evaluation.pictures_each
                + (one.place.k or 0),
                "is_style": one.question.is_style,
                "values": values(one),
            }
            for one in shown
        ],
    }


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if value is not None and is_defined(value) else None
