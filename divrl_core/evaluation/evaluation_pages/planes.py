"""The trade-off planes (arXiv:2606.23950, figure 3): consistency across, diversity over consistency up.

A point a model, with both intervals. In domain by VSM and nSSM, out of domain by sDINO and DINO-nSSM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ..experiment_charts import png_of
from ..standings.bootstrap import Interval
from ..standings.columns import PLANES, Column
from ..standings.columns import Axes as PlaneAxes
from ..standings.standings import Standings
from ..svg import COLOURS, open_chart, plain_tick, style, svg_text
from .labels import Box, place_labels
from .palette import Look, looks

WIDTH_PX, HEIGHT_PX = 368, 350
_LETTER_PX, _LINE_PX, _POINT_PX, _MOST_LETTERS = 7.6, 15.0, 6.0, 22


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A model in a plane."""

    name: str
    across: Interval
    up: Interval


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One plane, ready to be shown. absent: models that have no place in it."""

    name: str
    title: str
    svg: str
    png: bytes
    absent: tuple[str, ...]


def planes(standings: Standings) -> list[Plane]:
    """The planes for which both metrics were measured and some model has a place."""
    columns = {column.name: column for column in standings.columns}
    found = []
    for axes in PLANES:
        if axes.consistency not in columns:
            continue
        across, up = columns[axes.consistency], columns[axes.diversity]
        spots = [
            Spot(name=model.name, across=standings.mean(across, model), up=standings.mean(up, model))
            for model in standings.models
        ]
        shown = [spot for spot in spots if math.isfinite(spot.across.value) and math.isfinite(spot.up.value)]
        if shown:
            absent = tuple(spot.name for spot in spots if spot not in shown)
            found.append(
                _plane(axes, across, up, shown, absent, looks([one.name for one in standings.models]))
            )
    return found


def plane_figure(
    spots: Sequence[Spot], across: str, up: str, look: Mapping[str, Look]
) -> tuple[Figure, list[Box]]:
    """The figure, and where the names lie on it, in pixels. Call it inside `style()`."""
    figure, axes = open_chart(WIDTH_PX, HEIGHT_PX)
    axes.grid(axis="x", color=COLOURS["hairline"], linewidth=0.8)
    for spot in spots:
        axes.errorbar(
            spot.across.value,
            spot.up.value,
            xerr=_bars(spot.across),
            yerr=_bars(spot.up),
            color=look[spot.name].hex,
            marker=look[spot.name].marker,
            markersize=9,
            markeredgecolor=COLOURS["paper"],
            linewidth=1.2,
            zorder=3,
        )
    _frame(axes, spots)
    axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, _name_points(figure, axes, spots, look)


def _plane(
    axes: PlaneAxes,
    across: Column,
    up: Column,
    spots: Sequence[Spot],
    absent: tuple[str, ...],
    look: Mapping[str, Look],
) -> Plane:
    words = "; ".join(
        f"{spot.name}: consistency {spot.across.value:.3f}, diversity {spot.up.value:.3f}" for spot in spots
    )
    inside = across.label.partition("(")[2].rstrip(")")
    structure = up.label.partition("(")[2].partition(" where")[0]
    with style():
        figure, _ = plane_figure(
            spots,
            f"consistency ratio (share with {inside})",
            f"diversity over consistency ({structure})",
            look,
        )
        svg = svg_text(
            figure,
            key=f"plane-{axes.name}",
            description=f"{axes.title}: plane of consistency against diversity. {words}.",
        )
        return Plane(name=axes.name, title=axes.title, svg=svg, png=png_of(figure), absent=absent)


def _frame(axes: Axes, spots: Sequence[Spot]) -> None:
    """Limits that hold every bar, with room for the names at the sides."""
    left, right = _span([spot.across for spot in spots])
    bottom, top = _span([spot.up for spot in spots])
    across, up = max(right - left, 0.1), max(top - bottom, 0.02)
    axes.set_xlim(max(left - 0.25 * across, -0.05), min(right + 0.25 * across, 1.05))
    axes.set_ylim(bottom - 0.22 * up, top + 0.22 * up)
    first, last = axes.get_xlim()
    axes.set_xticks([tick for tick in axes.get_xticks() if max(first, -1e-9) <= tick <= min(last, 1 + 1e-9)])


def _span(intervals: Sequence[Interval]) -> tuple[float, float]:
    ends = [end for one in intervals for end in (one.value, one.low, one.high) if math.isfinite(end)]
    return min(ends), max(ends)


def _bars(interval: Interval) -> list[list[float]] | None:
    if not interval.is_known:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]


def _name_points(figure: Figure, axes: Axes, spots: Sequence[Spot], look: Mapping[str, Look]) -> list[Box]:
    figure.draw_without_rendering()  # so that the layout is settled
    scale = 72 / figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return across * scale, up * scale

    points = [at(spot.across.value, spot.up.value) for spot in spots]
    taken = [Box(x - _POINT_PX, y - _POINT_PX, x + _POINT_PX, y + _POINT_PX) for x, y in points]
    for spot, (x, y) in zip(spots, points, strict=True):
        if spot.across.is_known:
            taken.append(Box(at(spot.across.low, 0)[0], y - 2, at(spot.across.high, 0)[0], y + 2))
        if spot.up.is_known:
            taken.append(Box(x - 2, at(0, spot.up.low)[1], x + 2, at(0, spot.up.high)[1]))
    names = [_shortened(spot.name) for spot in spots]
    box = axes.get_window_extent()
    frame = Box(box.x0 * scale, box.y0 * scale, box.x1 * scale, box.y1 * scale)
    sizes = [(_LETTER_PX * len(name) + 4, _LINE_PX) for name in names]
    labels = place_labels(points, sizes, taken, frame)
    for spot, name, label in zip(spots, names, labels, strict=True):
        line = {"arrowstyle": "-", "color": COLOURS["muted"], "linewidth": 0.7, "shrinkA": 0, "shrinkB": 6}
        text = axes.annotate(
            name,
            (spot.across.value, spot.up.value),
            label.offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontweight="bold",
            color=look[spot.name].hex,
            arrowprops=line if label.is_far else None,
            zorder=5,
        )
        text.set_in_layout(False)
    return [label.box for label in labels]


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
