"""The models a report compares: each with its held-out measures and the pictures behind them.

A demo evaluates base, explore and suppress apart from training. A run's own evaluations give the same
three: the base is explore's update 0, explore is the LoRA that suppress started from (its update 0),
suppress the last evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .paired import MEASURES, TRUE_MEASURES, Difference, Sample, is_defined, paired_differences
from .runs import RunRecord, read_json

MODEL_NAMES = ("base", "explore", "suppress")


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model's held-out result. `settings` say how its pictures were made; `samples` may be empty."""

    name: str
    origin: str
    row: Mapping[str, Any]
    samples: tuple[Sample, ...] = ()
    settings: Mapping[str, Any]

    def count(self, measure: str) -> int:
        """How many pictures a measure rests on."""
        if measure == "diversity_over_consistency":
            return int(self.row.get("n_consistent") or 0)
        if measure == "pose_change_deg":
            return int(self.row.get("n_clean") or 0)
        score = {
            "nssm": "nssm",
            "vsm": "vsm",
            "consistency_ratio": "vsm",
            "clean_share": "clean",
            "identity_error": "identity_error",
        }[measure]
        if self.samples:
            return sum(is_defined(sample.get(score)) for sample in self.samples)
        return int(self.row.get("n") or 0) - int(self.row.get("undefined") or 0)


def measures_of(results: Sequence[ModelResult]) -> tuple[str, ...]:
    """The measures that these results have: the four of every run, and the true ones where the world is known."""
    known = any(result.row.get("clean_share") is not None for result in results)
    return MEASURES + TRUE_MEASURES if known else MEASURES


def results_of_demo(folder: Path) -> list[ModelResult]:
    """The three models of a demo folder, from heldout/base.json, explore.json and suppress.json; [] before
    they exist.
    """
    # A run's own evaluations, which choose its best LoRA, have other figures: see demo_pictures.
    origins = {
        "base": "the model without a LoRA",
        "explore": "explore/lora/best.safetensors, chosen on other figures than these",
        "suppress": "suppress/lora/best.safetensors, chosen on other figures than these",
    }
    files = [(name, folder / "heldout" / f"{name}.json") for name in MODEL_NAMES]
    return [_from_file(name, file, origins[name]) for name, file in files if file.is_file()]


def results_of_runs(records: Sequence[RunRecord]) -> list[ModelResult]:
    """The models that one run, or an explore run and the suppress run made from it, evaluated on the way."""
    if not records:
        return []
    first, last = records[0], records[-1]
    results = []
    if first.heldout and first.heldout[0]["update"] == 0:
        name = "base" if first.stage == "explore" else "explore"
        results.append(_from_row(first, first.heldout[0], name))
    if len(records) > 1:
        starts = last.heldout and last.heldout[0]["update"] == 0
        record = last if starts else first
        row = record.heldout[0] if starts else (first.heldout[-1] if first.heldout else None)
        if row is not None:
            results.append(_from_row(record, row, "explore"))
    if last.heldout and (last.heldout[-1]["update"] > 0 or not results):
        results.append(_from_row(last, last.heldout[-1], last.stage))
    return results


def compare(results: Sequence[ModelResult]) -> dict[tuple[str, str], dict[str, Difference]]:
    """Paired differences of every two models, keyed (after, before), where both made the same pictures."""
    differences = {}
    for before, after in itertools.combinations(results, 2):
        if not _measured_alike(before, after):
            continue
        found = paired_differences(
            before.samples, after.samples, consistency_cutoff=consistency_cutoff(results)
        )
        if found:
            differences[after.name, before.name] = found
    return differences


def consistency_cutoff(results: Sequence[ModelResult]) -> float | None:
    """The VSM above which a picture counts as consistent, as the evaluations wrote it; None if none did."""
    for result in results:
        value = result.settings.get("consistency_cutoff")
        if value is not None:
            return float(value)
    return None


def _measured_alike(before: ModelResult, after: ModelResult) -> bool:
    """Whether nothing but the model differs between two evaluations."""
    keys = ("seed", "steps", "image_size_px", "guidance_scale", "dtype", "backbone", "consistency_cutoff")
    return all(before.settings.get(key) == after.settings.get(key) for key in keys)


def _from_row(record: RunRecord, row: Mapping[str, Any], name: str) -> ModelResult:
    update = int(row["update"])
    origin = f"{record.path.name}, update {update}"
    file = record.heldout_files.get(update)
    if file is None:
        return ModelResult(name=name, origin=origin, row=row, settings={})
    return _from_file(name, file, origin)


def _from_file(name: str, file: Path, origin: str) -> ModelResult:
    content = read_json(file)
    missing = [key for key in ("summary", "samples") if key not in content]
    if missing:
        raise ValueError(f"{file} is not a held-out evaluation: it has no {' and no '.join(missing)}")
    return ModelResult(
        name=name,
        origin=origin,
        row=content["summary"],
        samples=tuple(content["samples"]),
        settings=content.get("settings") or {},
    )
