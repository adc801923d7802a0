"""report.html of an evaluation: one file that needs no network.

The verdict in words first, then every measure, the planes, what people said who judged blind, how training went, and
the pictures. What an evaluation does not have is left out of the page, or named in it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from ..blind.agreement import Agreement, share_words, shares_words
from ..sheets import short_number
from ..standings.bootstrap import LEAST_REFERENCES, LEVEL, RESAMPLES
from ..standings.columns import PLANES
from ..standings.standings import Standings
from ..standings.tallies import Estimate
from ..standings.verdict import (
    Comparison,
    comparisons,
    difference_words,
    digits_of,
    headline,
    leads_in_words,
)
from .cards import Cards
from .palette import looks
from .planes import Plane
from .progress import Progress
from .structure import StructureSheet
from .tables import collections_table, differences_table, left_out, main_table, model_words, networks

MAP_PX, PICTURE_PX = 224, 224
MANY_UNDEFINED = 0.1
PLANE_IDENTITIES = tuple(axes.identity for axes in PLANES)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the page shows beside the numbers; each may be empty."""

    planes: Sequence[Plane] = ()
    progress: Sequence[Progress] = ()
    structure: Sequence[StructureSheet] = ()
    cards: Cards | None = None
    agreement: Agreement | None = None


def evaluation_page(standings: Standings, parts: Parts) -> str:
    """The page as one text."""
    evaluation = standings.evaluation
    found = comparisons(standings) if standings.models else ()
    cards = parts.cards
    urls = {} if cards is None else cards.references
    template = _environment().get_template("evaluation.html.j2")
    page: str = template.render(
        benchmark=evaluation.benchmark,
        headline=headline(standings),
        lead=_lead(standings, found),
        facts=_facts(standings),
        warnings=warnings(standings),
        models=standings.models,
        looks=looks([model.name for model in standings.models]),
        comparisons=found,
        main=main_table(standings),
        differences=differences_table(standings) if len(standings.models) > 2 else None,
        collections=collections_table(standings),
        planes=parts.planes,
        progress=parts.progress,
        structure=parts.structure,
        agreement=parts.agreement,
        cards=cards,
        card_collections=_collections(cards),
        reference_urls=urls,
        reference_places={name: place for place, name in enumerate(urls)},
        columns=standings.measured_columns,
        networks=networks(standings, standings.measured_columns),
        model_lines=[model_words(standings, place) for place in range(len(standings.models))],
        left_out=left_out(standings, standings.measured_columns),
        level=f"{LEVEL:.0%}",
        resamples=f"{RESAMPLES:,}",
        least_references=LEAST_REFERENCES,
    )
    return page


def warnings(standings: Standings) -> list[str]:
    """What a reader must know: what is missing, and what cannot be told."""
    evaluation = standings.evaluation
    lines = []
    asked = {(question.reference_id, question.number) for question in evaluation.questions}
    pictures = len(asked) * evaluation.pictures_each
    for model in standings.models:
        scored = sum(
            place.k is not None and (place.reference_id, place.number) in asked
            for place in evaluation.values.get(model.name, {})
        )
        if scored < pictures:
            lines.append(f"{model.name}: {pictures - scored:,} of {pictures:,} pictures are not scored yet")
    lines += _undefined_identity(standings)
    references = {question.reference_id for question in evaluation.questions}
    if len(references) < LEAST_REFERENCES:
        lines.append(
            f"{len(references)} references are too few to tell a difference from noise: {LEAST_REFERENCES} are needed"
        )
    return lines


def _undefined_identity(standings: Standings) -> list[str]:
    """Models many of whose pictures have no measure of identity: the rest alone can look better than they all are."""
    lines = []
    for column in standings.columns:
        if not column.is_derived or column.shows not in PLANE_IDENTITIES:
            continue
        parts = []
        for model in standings.models:
            found = standings.mean(column, model)
            if found.undefined > MANY_UNDEFINED * (total := found.n + found.undefined):
                parts.append(f"{model.name} {found.n:,} of {total:,}")
        if parts:
            lines.append(
                f"{column.short}, pictures that count: {'; '.join(parts)}. In the others nothing of the subject was "
                "found again, which speaks against them"
            )
    return lines


def _lead(standings: Standings, found: Sequence[Comparison]) -> str:
    """Who leads on what; how many comparisons; how many of them chance alone would call a difference."""
    count = sum(one.judged + len(one.rewarded) + len(one.neither) for one in found)
    if not count:
        return ""
    beyond = sum(len(one.better) + len(one.worse) for one in found)
    rewarded = sum(len(one.rewarded) for one in found)
    words = f"Of {count} paired differences to {found[0].other.name}, {beyond} say who is better beyond noise"
    if rewarded:
        words += f"; {rewarded} more were rewarded in training and prove nothing"
    chance = f"Chance alone would make about {count * (1 - LEVEL):.1f} of so many look like a difference."
    return " ".join(part for part in (leads_in_words(standings), f"{words}.", chance) if part)


def _facts(standings: Standings) -> list[tuple[str, str]]:
    evaluation = standings.evaluation
    references = len({question.reference_id for question in evaluation.questions})
    pictures = len(evaluation.questions) * evaluation.pictures_each
    return [
        ("benchmark", f"{evaluation.benchmark}: {evaluation.source}"),
        (
            "a model",
            f"{pictures:,} pictures, {len(evaluation.questions):,} questions, {references:,} references",
        ),
        ("pictures", f"{evaluation.steps} steps, seed {evaluation.seed}"),
        ("masks", evaluation.masks),
    ]


def _collections(cards: Cards | None) -> list[str]:
    found = [] if cards is None else [card.collection for card in cards.cards]
    return [name for name in dict.fromkeys(found) if name]


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters: Mapping[str, Any] = {
        "difference": _difference,
        "percent": share_words,
        "percents": shares_words,
        "short": short_number,
        "jpeg": _jpeg,
        "png": _png,
    }
    environment.filters.update(filters)
    return environment


def _difference(estimate: Estimate) -> str:
    return difference_words(estimate, digits_of(estimate.value))


def _jpeg(picture: Image.Image) -> str:
    small = picture.copy()
    small.thumbnail((PICTURE_PX, PICTURE_PX), Image.Resampling.LANCZOS)
    return _url(small, "JPEG", quality=88)


def _png(picture: Image.Image) -> str:
    """A map: enlarged by the browser where it is small."""
    small = picture.copy()
    small.thumbnail((MAP_PX, MAP_PX), Image.Resampling.BOX)
    return _url(small, "PNG", optimize=True)


def _url(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
