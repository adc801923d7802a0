"""The experiment's pictures: two planes of diversity against identity, as measured and as is true, and the curves."""

from __future__ import annotations

import io
import itertools
import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .experiment_plan import BASE, LINEAR_WEIGHTS, linear_name
from .experiment_results import Results
from .paired import TURNED
from .svg import COLOURS, open_charts, plain_tick, style, svg_text

_PANEL_PX = (380, 340)
_PLANES = ("consistency_ratio", "diversity_over_consistency", "clean_share", TURNED)
_CURVE_PX = (320, 240)
_LABELS = {linear_name(weight): plain_tick(weight) for weight in LINEAR_WEIGHTS}
_CURVES = {
    "nssm": "nSSM",
    "vsm": "VSM",
    "clean_share": "whole pictures, share",
    "pose_change_deg": "their change of pose, degrees",
}


def frontier_png(results: Results) -> bytes:
    """Every model in two planes, a small dot a seed and a large one for the mean; the linear weights joined."""
    with style():
        return png_of(_frontier(results))


def frontier_svg(results: Results) -> str:
    """The same as one `<svg>` for a page."""
    means = "; ".join(
        f"{name}: " + ", ".join(f"{measure} {results.measure(name, measure).mean:.3f}" for measure in _PLANES)
        for name in results.models
    )
    with style():
        figure = _frontier(results)
        return svg_text(
            figure, key="frontier", description=f"Two planes of diversity against identity. {means}."
        )


def _frontier(results: Results) -> Figure:
    figure, (measured, true) = open_charts(2, *_PANEL_PX)
    _plane(measured, results, "consistency_ratio", "diversity_over_consistency")
    measured.set_title("As the rewards measure it", loc="left")
    measured.set_xlabel("consistency ratio")
    measured.set_ylabel("diversity over consistency (nSSM)")
    _plane(true, results, "clean_share", TURNED)
    true.set_title("As it is true", loc="left")
    true.set_xlabel("whole pictures, share")
    true.set_ylabel("in another pose, share")
    return figure


def curves_png(results: Results) -> bytes:
    """Held-out measures over the updates of explore and then suppress, a line a seed."""
    with style():
        figure, panels = open_charts(len(_CURVES), *_CURVE_PX)
        for axes, (measure, label) in zip(panels, _CURVES.items(), strict=True):
            for cell in results.cells("suppress"):
                offset = 0
                for arm in ("explore", "suppress"):
                    rows = [row for row in cell.curve if row["arm"] == arm and row["kind"] == "heldout"]
                    points = [
                        (offset + row["update"], row[measure]) for row in rows if row.get(measure) is not None
                    ]
                    if points:
                        axes.plot(*zip(*points, strict=True), color=COLOURS[arm], marker="o", markersize=3)
                    offset += max((row["update"] for row in rows), default=0)
                    if arm == "explore":
                        axes.axvline(offset, color=COLOURS["muted"], linewidth=0.8, dashes=(2, 3))
            axes.set_title(label, loc="left")
            axes.set_xlabel("update")
        return png_of(figure)


def _plane(axes: Axes, results: Results, across: str, up: str) -> None:
    line = [name for name in map(linear_name, LINEAR_WEIGHTS) if name in results.models]
    means = {
        name: (results.measure(name, across).mean, results.measure(name, up).mean) for name in results.models
    }
    if line:
        axes.plot(*zip(*(means[name] for name in line), strict=True), color=COLOURS["linear"], linewidth=1)
    stages = [name for name in (BASE, "explore", "suppress") if name in means]
    for start, end in itertools.pairwise(stages):
        axes.annotate(
            "", xytext=means[start], xy=means[end],
            arrowprops={"arrowstyle": "-|>", "color": COLOURS["muted"], "shrinkA": 6, "shrinkB": 6},
        )  # fmt: skip
    for name in results.models:
        colour = COLOURS["linear" if name in line else name]
        draw_model(axes, results, name, (across, up), colour=colour, label=_LABELS.get(name, name))
    axes.margins(y=0.14)
    axes.set_xlim(-0.06, 1.28)  # shares, and room for the names
    axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))


def draw_model(
    axes: Axes,
    results: Results,
    name: str,
    plane: tuple[str, str],
    *,
    colour: str,
    label: str,
    is_below: bool = False,
) -> None:
    """A model in the plane of two measures: a small dot a seed, a large one with its name for the mean."""
    points = [(cell.measures[plane[0]], cell.measures[plane[1]]) for cell in results.cells(name)]
    points = [point for point in points if all(map(math.isfinite, point))]
    if points:
        xs, ys = zip(*points, strict=True)
        axes.scatter(xs, ys, s=14, color=colour, alpha=0.5, linewidths=0)
    mean = (results.measure(name, plane[0]).mean, results.measure(name, plane[1]).mean)
    if all(map(math.isfinite, mean)):
        axes.scatter(
            [mean[0]], [mean[1]], s=80, color=colour, edgecolors=COLOURS["paper"], linewidths=1.5, zorder=3
        )
        axes.annotate(
            label,
            mean,
            (7, -14 if is_below else 5),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            zorder=4,
        )


def png_of(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, the same on every machine."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
