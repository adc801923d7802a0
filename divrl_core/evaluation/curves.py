"""Charts of a run over its updates: the reward and its parts, in one stage or in two end to end.

Training curves are measured on noisy training samples, held-out points on other references at the steps
people use, so the two are drawn apart: a line, and dots with their standard error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .svg import COLOURS, WIDTH_PX, colour_of, open_chart, plain_tick, style, svg_text

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class StageCurve:
    """The rows of metrics.jsonl of one stage, in order of updates, and its gate s where it has one."""

    stage: str
    train: Rows
    heldout: Rows
    gate: float | None = None

    @property
    def last_update(self) -> int:
        """The last update that any row tells of."""
        return max((int(row["update"]) for row in [*self.train, *self.heldout]), default=0)


def metric_chart(
    stages: Sequence[StageCurve], metric: str, *, label: str, height_px: int = 230, key: str = ""
) -> str:
    """One metric over the updates of one or more stages, end to end, with the boundary between stages
    marked. key: goes before the ids, for a page of several runs.
    """
    with style():
        figure = metric_figure(stages, metric, height_px=height_px)
        description = _describe_curve(stages, metric, label)
        return svg_text(figure, key=f"{key}curve-{metric}", description=description)


def metric_figure(stages: Sequence[StageCurve], metric: str, *, height_px: int = 230) -> Figure:
    """The figure behind it. Call it inside `style()`."""
    figure, axes = open_chart(WIDTH_PX, height_px)
    offset = 0
    for index, stage in enumerate(stages):
        colour = colour_of(stage.stage)
        _draw_training(axes, stage.train, metric, offset, colour)
        _draw_heldout(axes, stage.heldout, metric, offset, colour)
        if metric == "vsm" and stage.gate is not None:
            _draw_gate(axes, stage.gate, stage, offset)
        if index:
            axes.axvline(offset, color=COLOURS["muted"], linewidth=0.8, dashes=(2, 3), zorder=1)
        offset += stage.last_update
    _name_stages(axes, stages)
    axes.set_xlim(-0.03 * max(offset, 1), max(offset, 1) * 1.03)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.set_xlabel("update")
    if metric in ("gate_rate", "clip_share"):
        axes.set_ylim(-0.03, 1.03)
    return figure


def _draw_training(axes: Axes, rows: Rows, metric: str, offset: int, colour: str) -> None:
    """The value of each update as a faint line and its moving mean as a full one; gaps where it is
    undefined.
    """
    updates = [offset + int(row["update"]) for row in rows]
    values = [_number(row.get(metric)) for row in rows]
    if not any(math.isfinite(value) for value in values):
        return
    if len(rows) < 12:
        axes.plot(
            updates,
            values,
            color=colour,
            linewidth=1.4,
            alpha=0.6,
            zorder=2,
            marker="." if len(rows) < 3 else "",
        )
        return
    axes.plot(updates, values, color=colour, linewidth=0.9, alpha=0.3, zorder=2)
    axes.plot(updates, _moving_mean(values, max(3, len(rows) // 12)), color=colour, linewidth=1.7, zorder=3)


def _draw_heldout(axes: Axes, rows: Rows, metric: str, offset: int, colour: str) -> None:
    points = [
        (offset + int(r["update"]), _number(r.get(metric)), _number(r.get(f"{metric}_se"))) for r in rows
    ]
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return
    updates, values, errors = zip(*points, strict=True)
    axes.errorbar(
        updates,
        values,
        yerr=[_finite(error) for error in errors],
        fmt="o",
        color=colour,
        markersize=6,
        markeredgecolor=COLOURS["paper"],
        linewidth=1.3,
        zorder=4,
    )


def _draw_gate(axes: Axes, gate: float, stage: StageCurve, offset: int) -> None:
    """The gate as a dashed line over the stage, named at the end where the curve is farther from the name."""
    first, last = offset, offset + stage.last_update
    axes.plot([first, last], [gate, gate], color=COLOURS["ink"], linewidth=0.9, dashes=(5, 3), zorder=2)
    values = [value for row in stage.train if math.isfinite(value := _number(row.get("vsm")))] or [0.0]
    third = max(1, len(values) // 3)
    starts_clear = min(abs(gate - v) for v in values[:third]) > min(abs(gate - v) for v in values[-third:])
    x, shift, side = (first, 5, "left") if starts_clear else (last, -2, "right")
    axes.annotate(
        f"gate {plain_tick(gate)}",
        (x, gate),
        (shift, 4),
        textcoords="offset points",
        ha=side,
        color=COLOURS["ink"],
        zorder=5,
    )


def _name_stages(axes: Axes, stages: Sequence[StageCurve]) -> None:
    """The stages' names above the plot, each over the middle of its own updates."""
    offset = 0
    for stage in stages:
        middle = offset + stage.last_update / 2
        axes.annotate(
            stage.stage,
            (middle, 1),
            (0, 5),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="center",
            color=colour_of(stage.stage),
            annotation_clip=False,
        )
        offset += stage.last_update


def _describe_curve(stages: Sequence[StageCurve], metric: str, label: str) -> str:
    parts = []
    for stage in stages:
        rows = [row for row in stage.heldout if math.isfinite(_number(row.get(metric)))] or [
            row for row in stage.train if math.isfinite(_number(row.get(metric)))
        ]
        if rows:
            first, last = _number(rows[0][metric]), _number(rows[-1][metric])
            parts.append(f"{stage.stage}: from {first:.3g} to {last:.3g} over {stage.last_update} updates")
    return f"{label}. {'; '.join(parts) or 'no values'}."


def _moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Centred mean over about `window` values, shorter at the ends; undefined values are left out."""
    half = window // 2
    means = []
    for index in range(len(values)):
        near = [v for v in values[max(0, index - half) : index + half + 1] if math.isfinite(v)]
        means.append(sum(near) / len(near) if near else math.nan)
    return means


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
