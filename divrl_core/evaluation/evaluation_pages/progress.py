"""How the runs behind the LoRAs went (arXiv:2606.23950, figure 6): held-out measures over the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..curves import StageCurve, metric_figure
from ..experiment_charts import png_of
from ..report_charts import CURVES, line_charts, stage_curve
from ..runs import RunRecord, find_parent, is_run_folder, read_run
from ..svg import style

MEASURES = {
    **CURVES,
    "consistency_ratio": ("Consistency ratio", "Share of held-out pictures above the cut-off of VSM."),
    "diversity_over_consistency": (
        "Diversity over consistency",
        "Mean nSSM of the held-out pictures above it.",
    ),
}
HEIGHT_PX = 230


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A model's run, with the run it started from where that is known. charts: metric, label, meaning, svg, png."""

    model: str
    stages: tuple[str, ...]
    updates: int
    charts: tuple[Mapping[str, Any], ...]


def run_behind(lora: Path) -> Path | None:
    """The run folder that a LoRA's file lies in (RUN/lora/NAME.safetensors), or that is named itself; else None."""
    return next((folder for folder in (lora, *list(lora.parents)[:2]) if is_run_folder(folder)), None)


def progress_of(runs: Mapping[str, Path]) -> list[Progress]:
    """The charts of each run, by its model. Raises FileNotFoundError, ValueError for a folder that is no run."""
    return [_progress(place, model, read_run(folder)) for place, (model, folder) in enumerate(runs.items())]


def _progress(place: int, model: str, record: RunRecord) -> Progress:
    parent = find_parent(record)
    records = [record] if parent is None else [read_run(parent), record]
    stages = [stage_curve(one, []) for one in records]
    charts = line_charts(stages, MEASURES, HEIGHT_PX, key=f"run-{place}-")
    return Progress(
        model=model,
        stages=tuple(one.stage for one in records),
        updates=sum(one.last_update for one in records),
        charts=tuple({**chart, "png": _png(stages, chart["metric"])} for chart in charts),
    )


def _png(stages: Sequence[StageCurve], metric: str) -> bytes:
    with style():
        return png_of(metric_figure(stages, metric, height_px=HEIGHT_PX))
