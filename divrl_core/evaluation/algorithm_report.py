"""The page of the experiment on algorithms: what each has reached, and against which compute; from the cells alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from PIL import Image

from ..training.files import write_atomic_bytes, write_atomic_text
from .algorithm_plan import ORDER
from .experiment_charts import png_of
from .experiment_plan import BASE
from .experiment_report import markdown_table, models_table
from .experiment_results import Cell, OverSeeds, Results
from .svg import open_charts, plain_tick, style

PAGE = "experiment.md"
COSTS = {"model_evaluations": "model evaluations, thousands", "cpu_seconds": "processor seconds"}
REACHED = {
    "nssm": "held-out reward (nSSM)",
    "turned_share": "in another pose, share",
    "clean_share": "whole, share",
}
SCALE = {"model_evaluations": 1e-3, "cpu_seconds": 1.0}
_CURVE_PX = (330, 220)
_PALETTE = (
    *("#000000", "#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#0072b2", "#7f7f00", "#7a3fb0"),
    "#9a9a9a",
)


def write_algorithm_report(cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/experiment.md and its figure, from all cells in a folder; None where there is none yet."""
    results = Results.read(cells, ORDER)
    if not results.models:
        return None
    write_atomic_bytes(output / "compute.png", compute_png(results))
    return write_atomic_text(output / PAGE, page(results))


def page(results: Results) -> str:
    """The page as Markdown: a pure function of the cells."""
    count = sum(len(results.cells(name)) for name in results.models)
    parts = [
        "# Algorithms on the pocket world",
        f"Written by `divrl-train experiment algorithms` from {count} cells, a model and seed each. Every algorithm "
        "starts from the base, is paid for nSSM, and makes as many updates of 50 pictures. `chance` is the control: "
        "`first-two`, paid a random number for each picture, so what it reaches is drift.",
        "## Against compute",
        "![Held-out reward, turned and whole pictures against compute](compute.png)",
        "*A line a seed, thick their mean; held-out pictures as the run itself saw them. A forward counts 1, with its "
        "backward 3.*",
        "## At the end",
        end_table(results),
        "## The best LoRA of each run, judged on other figures",
        models_table(results),
    ]
    return "\n\n".join(parts) + "\n"


def end_table(results: Results) -> str:
    """What was reached after the last update, and what it cost; mean over seeds ± their spread."""
    rows = [["algorithm", *REACHED.values(), *COSTS.values()]]
    for name in results.models:
        if name == BASE:
            continue
        ends = [points(cell)[-1] for cell in results.cells(name) if points(cell)]
        cells = [OverSeeds(tuple(end[key] for end in ends)) for key in REACHED]
        costs = [OverSeeds(tuple(end[key] * SCALE[key] for end in ends)) for key in COSTS]
        rows.append(
            [
                name,
                *(f"{value.mean:.3f} ± {value.spread:.3f}" for value in cells),
                *(f"{value.mean:.1f} ± {value.spread:.1f}" for value in costs),
            ]
        )
    return markdown_table(rows)


def points(cell: Cell) -> list[dict[str, float]]:
    """Of every held-out evaluation of a run: what was reached, and the costs of all updates before it."""
    spent = dict.fromkeys(COSTS, 0.0)
    found: list[dict[str, float]] = []
    for row in sorted(cell.curve, key=lambda row: (row["update"], row["kind"] == "heldout")):
        if row["kind"] == "train":
            for cost in COSTS:
                spent[cost] += float(row[cost])
        else:
            found.append({name: float(row[name]) for name in REACHED} | spent)
    return found


def compute_png(results: Results) -> bytes:
    """What was reached (rows) against each cost (columns), a colour an algorithm."""
    with style():
        drawn = Image.open(io.BytesIO(png_of(_compute(results)))).convert("RGB")
    buffer = io.BytesIO()
    drawn.quantize(128).save(buffer, "PNG", optimize=True)  # many pale lines: a third of the bytes
    return buffer.getvalue()


def _compute(results: Results) -> Figure:
    figure, axes = open_charts(len(REACHED) * len(COSTS), *_CURVE_PX, columns=len(COSTS))
    names = [name for name in results.models if name != BASE]
    for axis, (reached, cost) in zip(axes, itertools.product(REACHED, COSTS), strict=True):
        for name, colour in zip(names, _PALETTE, strict=False):
            _lines(axis, [points(cell) for cell in results.cells(name)], reached, cost, name, colour)
        axis.set_xlabel(COSTS[cost])
        axis.set_ylabel(REACHED[reached])
        axis.xaxis.set_major_formatter(FuncFormatter(plain_tick))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _lines(
    axis: Axes, runs: Sequence[list[dict[str, float]]], reached: str, cost: str, name: str, colour: str
) -> None:
    for run in runs:
        axis.plot(
            [point[cost] * SCALE[cost] for point in run],
            [point[reached] for point in run],
            color=colour,
            alpha=0.25,
            linewidth=0.8,
        )
    steps = list(zip(*runs, strict=False))
    if steps:
        axis.plot(
            [sum(point[cost] for point in at) / len(at) * SCALE[cost] for at in steps],
            [sum(point[reached] for point in at) / len(at) for at in steps],
            color=colour,
            linewidth=2,
            label=name,
        )
