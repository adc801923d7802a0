"""The report's charts, each as a piece of the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .curves import StageCurve, metric_chart
from .paired import is_defined
from .plane import Cloud, PlanePoint, cloud_chart, plane_chart
from .results import ModelResult
from .runs import RunRecord, setting_of

CURVES = {
    "reward": ("Reward", "What the stage is trained on."),
    "nssm": ("nSSM", "Structural difference from the reference; higher is more different."),
    "vsm": ("VSM", "Share of matched parts that still look the same; higher is more faithful."),
    "gate_rate": ("Gate rate", "Share of training pictures whose VSM passes the gate."),
}
HEALTH = {
    "reward_std_within": ("Spread of rewards within groups", "Near zero, there is nothing to learn from."),
    "grad_rms": ("Gradient RMS", "AdamW\u2019s eps must stay far below it."),
    "kl": ("KL to the reference policy", "How far the policy has moved."),
    "clip_share": (
        "Clipped share",
        "Share of trained steps that the clip or Flow-DPPO took the gradient of.",
    ),
    "policy_loss": ("Policy loss", "DiffusionNFT's, without the distance from the reference."),
    "old_distance": ("Distance from the old policy", "Of velocities, mean square: how far an update goes."),
}


def stage_curve(record: RunRecord, results: Sequence[ModelResult]) -> StageCurve:
    gate = None
    if setting_of(record.settings, "reward.kind") == "gated":
        found = [
            setting_of(record.settings, "reward.gate"),
            *(result.settings.get("gate") for result in results),
        ]
        gate = next((float(value) for value in found if is_defined(value)), None)
    return StageCurve(stage=record.stage, train=record.train, heldout=record.heldout, gate=gate)


def line_charts(
    stages: Sequence[StageCurve], wanted: Mapping[str, tuple[str, str]], height_px: int, *, key: str = ""
) -> list[dict[str, Any]]:
    """The charts of the metrics that any row holds, each with its name and a sentence.

    key: what makes their ids differ from those of other runs on the same page.
    """
    charts = []
    for metric, (label, meaning) in wanted.items():
        rows = [row for stage in stages for row in [*stage.train, *stage.heldout]]
        if any(is_defined(row.get(metric)) for row in rows):
            svg = metric_chart(stages, metric, label=label, height_px=height_px, key=key)
            charts.append({"metric": metric, "label": label, "meaning": meaning, "svg": Markup(svg)})
    return charts


def plane(results: Sequence[ModelResult], cutoff: float | None) -> Markup | None:
    points = [
        PlanePoint(
            name=result.name,
            consistency=_value(result.row, "consistency_ratio"),
            consistency_se=_value(result.row, "consistency_ratio_se"),
            diversity=_value(result.row, "diversity_over_consistency"),
            diversity_se=_value(result.row, "diversity_over_consistency_se"),
        )
        for result in results
    ]
    if not any(math.isfinite(point.consistency) and math.isfinite(point.diversity) for point in points):
        return None
    return Markup(plane_chart(points, cutoff=cutoff))


def cloud(results: Sequence[ModelResult], cutoff: float | None) -> Markup | None:
    clouds = [
        Cloud(
            name=result.name,
            vsm=[_value(sample, "vsm") for sample in result.samples],
            nssm=[_value(sample, "nssm") for sample in result.samples],
        )
        for result in results
        if result.samples
    ]
    return Markup(cloud_chart(clouds, cutoff=cutoff)) if clouds else None


def _value(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, (int, float)) else math.nan
