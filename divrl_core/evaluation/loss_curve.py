"""The picture of a cfm run over its updates: training loss, and validation loss with the best update marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from ..training.files import write_atomic_bytes
from .experiment_charts import png_of
from .svg import COLOURS, open_charts, style

NAME = "loss.png"
SMOOTHED_UPDATES = 20
_PANEL_PX = (360, 240)


def write_loss_curve(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the rows of a run's metrics.jsonl into FOLDER/loss.png."""
    train = [(row["update"], row["loss"]) for row in rows if row.get("kind") == "train"]
    held = [row for row in rows if row.get("kind") == "heldout"]
    with style():
        figure, (left, right) = open_charts(2, *_PANEL_PX)
        left.set_title(f"training loss, and its mean over {SMOOTHED_UPDATES} updates", loc="left")
        if train:
            updates, losses = zip(*train, strict=True)
            left.scatter(updates, losses, s=3, color=COLOURS["muted"], alpha=0.4, linewidths=0)
            left.plot(updates, smoothed(losses), color=COLOURS["explore"], linewidth=1.6)
        right.set_title("validation loss, ± its standard error", loc="left")
        xs = [row["update"] for row in held]
        ys = [row["validation_loss"] for row in held]
        errors = [row.get("validation_loss_se") or 0.0 for row in held]
        right.errorbar(xs, ys, errors, color=COLOURS["suppress"], marker="o", markersize=3.5, linewidth=1.2)
        if ys:
            best = min(range(len(ys)), key=ys.__getitem__)
            right.scatter(
                [xs[best]], [ys[best]], s=90, facecolors="none", edgecolors=COLOURS["ink"], zorder=3
            )
            right.annotate(
                f"best: {ys[best]:.4f}", (xs[best], ys[best]), (0, 9), textcoords="offset points", ha="right"
            )
        right.margins(x=0.1, y=0.15)
        for axes in (left, right):
            axes.set_xlabel("update")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        picture = png_of(figure)
    return write_atomic_bytes(folder / NAME, picture)


def smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with those before it, SMOOTHED_UPDATES in all, fewer at the beginning."""
    means = []
    for end in range(1, len(values) + 1):
        window = values[max(0, end - SMOOTHED_UPDATES) : end]
        means.append(sum(window) / len(window))
    return means
