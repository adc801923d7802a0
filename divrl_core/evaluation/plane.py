"""Two views of several models at once: the plane of consistency against diversity, and every picture as a
dot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from .svg import COLOURS, WIDTH_PX, colour_of, open_chart, plain_tick, style, svg_text

Place = tuple[float, float]

_HEIGHT_PX = 330
_INNER_PX = (0.8 * WIDTH_PX, 0.8 * _HEIGHT_PX)
_BEND = 0.12


@dataclass(frozen=True, kw_only=True)
class PlanePoint:
    """One model on the plane; each value with its standard error. NaN stands for undefined."""

    name: str
    consistency: float
    consistency_se: float
    diversity: float
    diversity_se: float


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The held-out pictures of one model: VSM and nSSM of each."""

    name: str
    vsm: Sequence[float]
    nssm: Sequence[float]


def plane_chart(points: Sequence[PlanePoint], *, cutoff: float | None = None) -> str:
    """Consistency ratio against diversity over consistency as one `<svg>`: a point a model, arrows in the
    order given.

    Up and to the right is better. A model with an undefined coordinate (no consistent picture) is left out;
    the page says so in words.
    """
    shown = [point for point in points if math.isfinite(point.consistency) and math.isfinite(point.diversity)]
    with style():
        figure, axes = open_chart(WIDTH_PX, _HEIGHT_PX)
        axes.grid(axis="x", color=COLOURS["hairline"], linewidth=0.8)
        for before, after in itertools.pairwise(shown):
            _draw_arrow(axes, before, after)
        for point in shown:
            axes.errorbar(
                point.consistency,
                point.diversity,
                xerr=_finite(point.consistency_se),
                yerr=_finite(point.diversity_se),
                color=colour_of(point.name),
                marker="o",
                markersize=9,
                markeredgecolor=COLOURS["paper"],
                linewidth=1.3,
                zorder=3,
            )
        _frame(axes, shown)
        _label_points(axes, shown)
        axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
        above = f" (share of pictures with VSM > {plain_tick(cutoff)})" if cutoff is not None else ""
        axes.set_xlabel(f"consistency ratio{above}")
        axes.set_ylabel("diversity over consistency")
        words = "; ".join(
            f"{p.name}: consistency {p.consistency:.3f}, diversity {p.diversity:.3f}" for p in shown
        )
        return svg_text(figure, key="plane", description=f"Plane of consistency against diversity. {words}.")


def cloud_chart(clouds: Sequence[Cloud], *, cutoff: float | None = None) -> str:
    """Every held-out picture as a dot, VSM across and nSSM up, each model's mean as a large dot, as one
    `<svg>`.
    """
    with style():
        figure, axes = open_chart(WIDTH_PX, _HEIGHT_PX)
        axes.grid(axis="x", color=COLOURS["hairline"], linewidth=0.8)
        if cutoff is not None:
            axes.axvline(cutoff, color=COLOURS["muted"], linewidth=0.8, dashes=(2, 3), zorder=1)
        means = []
        for cloud in clouds:
            pairs = [
                pair for pair in zip(cloud.vsm, cloud.nssm, strict=True) if all(map(math.isfinite, pair))
            ]
            if pairs:
                vsm, nssm = zip(*pairs, strict=True)
                axes.scatter(vsm, nssm, s=9, color=colour_of(cloud.name), alpha=0.42, linewidths=0, zorder=2)
                means.append((cloud.name, sum(vsm) / len(vsm), sum(nssm) / len(nssm)))
        for name, vsm_mean, nssm_mean in means:
            axes.scatter(
                [vsm_mean],
                [nssm_mean],
                s=95,
                color=colour_of(name),
                edgecolors=COLOURS["paper"],
                linewidths=1.5,
                zorder=4,
            )
        axes.set_xlim(-0.03, 1.03)
        axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
        axes.set_xlabel("VSM of the picture")
        axes.set_ylabel("nSSM of the picture")
        words = "; ".join(f"{name}: mean VSM {vsm:.3f}, mean nSSM {nssm:.3f}" for name, vsm, nssm in means)
        return svg_text(figure, key="cloud", description=f"Every held-out picture as a dot. {words}.")


def _draw_arrow(axes: Axes, before: PlanePoint, after: PlanePoint) -> None:
    axes.annotate(
        "",
        xytext=(before.consistency, before.diversity),
        xy=(after.consistency, after.diversity),
        arrowprops={
            "arrowstyle": "-|>",
            "color": COLOURS["muted"],
            "linewidth": 1,
            "shrinkA": 8,
            "shrinkB": 8,
            "connectionstyle": f"arc3,rad={_BEND}",
        },
        zorder=2,
    )


def _frame(axes: Axes, points: Sequence[PlanePoint]) -> None:
    """Limits that hold every error bar, with room at the sides for the names."""
    if not points:
        return
    lefts = [p.consistency - _finite(p.consistency_se) for p in points]
    rights = [p.consistency + _finite(p.consistency_se) for p in points]
    bottoms = [p.diversity - _finite(p.diversity_se) for p in points]
    tops = [p.diversity + _finite(p.diversity_se) for p in points]
    across, up = max(max(rights) - min(lefts), 0.2), max(max(tops) - min(bottoms), 0.02)
    # A share lies in 0..1 and a distance above 0; a little beyond, so that a point at the end is drawn whole.
    axes.set_xlim(max(min(lefts) - 0.24 * across, -0.05), min(max(rights) + 0.24 * across, 1.05))
    left, right = axes.get_xlim()
    axes.set_xticks([tick for tick in axes.get_xticks() if left <= tick <= min(right, 1 + 1e-9)])
    axes.set_ylim(max(min(bottoms) - 0.2 * up, -0.02), max(tops) + 0.2 * up)


def _label_points(axes: Axes, points: Sequence[PlanePoint]) -> None:
    """Names beside the points, each at the corner farthest from points, error bars, arrows and other
    names.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()

    def place(x: float, y: float) -> Place:
        return (x - left) / (right - left) * _INNER_PX[0], (y - bottom) / (top - bottom) * _INNER_PX[1]

    centres = [place(point.consistency, point.diversity) for point in points]
    taken = list(centres)
    for start, end in itertools.pairwise(centres):
        taken += [_on_arrow(start, end, share / 12) for share in range(1, 12)]
    for point in points:
        for share in (-1, -0.5, 0.5, 1):
            taken.append(place(point.consistency + share * _finite(point.consistency_se), point.diversity))
            taken.append(place(point.consistency, point.diversity + share * _finite(point.diversity_se)))
    for point, centre in zip(points, centres, strict=True):
        half = 3.6 * len(point.name)
        offset = _clearest_corner(centre, half, [other for other in taken if other != centre])
        taken.append((centre[0] + offset[0], centre[1] + offset[1]))
        axes.annotate(
            point.name,
            (point.consistency, point.diversity),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            fontweight="bold",
            color=colour_of(point.name),
            zorder=5,
        )


def _clearest_corner(centre: Place, half_width: float, taken: Sequence[Place]) -> Place:
    """Of the four corners round a point, the offset at which a name keeps most distance from what is
    taken.
    """

    def clearance(offset: Place) -> float:
        x, y = centre[0] + offset[0], centre[1] + offset[1]
        gaps = [math.hypot(max(abs(x - p) - half_width, 0), max(abs(y - q) - 6, 0)) for p, q in taken]
        edge = min(x - half_width, _INNER_PX[0] - x - half_width, y - 6, _INNER_PX[1] - y - 6)
        return min([*gaps, 3 * edge])

    return max(itertools.product((-half_width - 11, half_width + 11), (-15, 15)), key=clearance)


def _on_arrow(start: Place, end: Place, share: float) -> Place:
    """A place on a bent arrow: matplotlib's arc3 is a quadratic curve, its control point beside the
    middle.
    """
    control_x = (start[0] + end[0]) / 2 + _BEND * (end[1] - start[1])
    control_y = (start[1] + end[1]) / 2 - _BEND * (end[0] - start[0])
    a, b, c = (1 - share) ** 2, 2 * share * (1 - share), share**2
    return a * start[0] + b * control_x + c * end[0], a * start[1] + b * control_y + c * end[1]


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
