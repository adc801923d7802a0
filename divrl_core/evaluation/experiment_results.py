"""The experiment's finished cells put together: means over seeds, paired differences, and what was expected of them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .consistency import consistency
from .experiment_plan import BASE, LINEAR_WEIGHTS, linear_name
from .paired import NEW_POSE, NEW_POSE_DEG, TURNED, Difference, Sample, paired_differences
from .runs import read_json

MEASURES = (
    "nssm",
    "vsm",
    "consistency_ratio",
    "diversity_over_consistency",
    "clean_share",
    "pose_change_deg",
    TURNED,
    NEW_POSE,
    "identity_error",
)
CELL_PARTS = ("model", "seed", "made_with", "settings", "summary", "samples", "curve")
ORDER = (BASE, "explore", "suppress", "vsm", *(linear_name(weight) for weight in LINEAR_WEIGHTS))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One model of one seed: its measures, its pictures' scores, its training curve."""

    model: str
    seed: int
    summary: Mapping[str, Any]
    settings: Mapping[str, Any]
    samples: tuple[Sample, ...]
    curve: tuple[Mapping[str, Any], ...]

    @property
    def measures(self) -> dict[str, float]:
        """Every measure's mean over the pictures, and what else the summary holds; NaN where undefined.

        turned_share: share of pictures that stand more than 12 degrees from the reference, whole or not.
        new_pose_share: share of pictures that do and are whole.
        """
        numbers = {name: value for name, value in self.summary.items() if isinstance(value, (int, float))}
        values = dict.fromkeys(MEASURES) | numbers
        # Counted again: the summaries of cells made before `is_consistent` took 4 of 5 in float32 for more than .8.
        scores = [(_number(one["vsm"]), _number(one["nssm"])) for one in self.samples]
        cutoff = float(self.settings["consistency_cutoff"])
        values["consistency_ratio"], values["diversity_over_consistency"] = consistency(scores, cutoff)
        judged = [sample for sample in self.samples if sample.get("clean") is not None]
        if judged:
            turned = [sample for sample in judged if sample["pose_change_deg"] > NEW_POSE_DEG]
            values[TURNED] = len(turned) / len(judged)
            values[NEW_POSE] = sum(bool(sample["clean"]) for sample in turned) / len(judged)
        return {name: math.nan if value is None else float(value) for name, value in values.items()}


@dataclass(frozen=True)
class OverSeeds:
    """A number of each seed, their mean, and their spread (standard deviation, NaN for one)."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values) if self.values else math.nan

    @property
    def spread(self) -> float:
        """The standard deviation between seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


@dataclass(frozen=True)
class PairedOverSeeds:
    """A paired difference of each seed. `se`: of their mean, from the pictures within the seeds; NaN if unknown."""

    differences: tuple[Difference, ...]

    @property
    def over_seeds(self) -> OverSeeds:
        """The seeds' means."""
        return OverSeeds(tuple(one.mean for one in self.differences))

    @property
    def se(self) -> float:
        """Seeds have figures of their own, so their errors add in squares."""
        return math.sqrt(sum(one.se**2 for one in self.differences)) / max(len(self.differences), 1)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of the mean."""
        mean = self.over_seeds.mean
        return mean - 1.96 * self.se, mean + 1.96 * self.se


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One thing that was expected before any cell was made, what was measured, and whether it holds (None: unknown)."""

    text: str
    measured: str
    holds: bool | None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def read_cell(path: Path) -> Mapping[str, Any]:
    """A cell's file. Raises ValueError, with the path, when it is no JSON or lacks a part."""
    content = read_json(path)
    missing = [name for name in CELL_PARTS if name not in content]
    if missing:
        lacking = ", no ".join(missing)
        raise ValueError(f"{path} is no cell of an experiment: it has no {lacking}; delete it and run again")
    return content


class Results:
    """All finished cells."""

    def __init__(self, cells: Sequence[Cell], order: Sequence[str] = ORDER) -> None:
        self._cells = {(cell.model, cell.seed): cell for cell in cells}
        self.models = tuple(name for name in order if any(cell.model == name for cell in cells))
        self.seeds = tuple(sorted({cell.seed for cell in cells}))

    @classmethod
    def read(cls, folder: Path, order: Sequence[str] = ORDER) -> Results:
        """The cells in a folder's seed-N/MODEL.json; `order` names the models of the experiment."""
        cells = []
        for path in sorted(folder.glob("seed-*/*.json")):
            content = read_cell(path)
            names = ("model", "seed", "summary", "settings")
            cells.append(
                Cell(
                    **{name: content[name] for name in names},
                    samples=tuple(content["samples"]),
                    curve=tuple(content["curve"]),
                )
            )
        return cls(cells, order)

    def cells(self, model: str) -> list[Cell]:
        """A model's cells in the order of seeds."""
        return [cell for (name, _), cell in sorted(self._cells.items()) if name == model]

    def measure(self, model: str, name: str) -> OverSeeds:
        """A measure of a model over its seeds, undefined ones left out."""
        values = [cell.measures.get(name, math.nan) for cell in self.cells(model)]
        return OverSeeds(tuple(value for value in values if math.isfinite(value)))

    def paired(self, after: str, before: str) -> dict[str, PairedOverSeeds]:
        """Paired differences over the seeds that have both models, by measure."""
        by_seed = []
        for seed in self.seeds:
            ends = [self._cells.get((name, seed)) for name in (after, before)]
            if ends[0] is not None and ends[1] is not None:
                cutoff = float(ends[1].settings["consistency_cutoff"])
                by_seed.append(
                    paired_differences(ends[1].samples, ends[0].samples, consistency_cutoff=cutoff)
                )
        names = [name for name in MEASURES if by_seed and all(name in one for one in by_seed)]
        return {name: PairedOverSeeds(tuple(one[name] for one in by_seed)) for name in names}


def expectations(results: Results) -> list[Expected]:
    """What the paper and the probe let expect, held against the cells."""
    to_base = {name: results.paired(name, BASE) for name in ("explore", "suppress", "vsm")}

    def ratio(model: str, measure: str) -> float:
        base = results.measure(BASE, measure).mean
        return results.measure(model, measure).mean / base if base else math.nan

    def at_least(text: str, model: str, measure: str, factor: float) -> Expected:
        value = ratio(model, measure)
        return Expected(text=text, measured=f"{value:.2f} times", holds=_known(value, value >= factor))

    def moved(text: str, model: str, measure: str, sign: int) -> Expected:
        found = to_base[model].get(measure)
        if found is None:
            return Expected(text=text, measured="n/a", holds=None)
        low, high = found.interval
        measured = f"{found.over_seeds.mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        return Expected(text=text, measured=measured, holds=low > 0 if sign > 0 else high < 0)

    lost_vsm = results.measure("suppress", "vsm").mean - results.measure(BASE, "vsm").mean
    lost_clean = results.measure("suppress", "clean_share").mean - results.measure(BASE, "clean_share").mean
    gap = above_the_linear_line(results)
    spread = results.measure("suppress", "diversity_over_consistency").spread
    return [
        at_least("explore: nSSM at least 1.25 times the base's", "explore", "nssm", 1.25),
        at_least("explore: true change of pose at least twice the base's", "explore", "pose_change_deg", 2),
        moved("explore: VSM below the base's", "explore", "vsm", -1),
        Expected(
            text="suppress: VSM within .05 of the base's",
            measured=f"{lost_vsm:+.3f}",
            holds=_known(lost_vsm, abs(lost_vsm) <= 0.05),
        ),
        at_least("suppress: nSSM at least 1.1 times the base's", "suppress", "nssm", 1.1),
        moved("suppress: nSSM above the base's, paired 95% interval", "suppress", "nssm", 1),
        at_least(
            "suppress: true change of pose at least 1.5 times the base's", "suppress", "pose_change_deg", 1.5
        ),
        Expected(
            text="suppress: share of whole pictures at most .05 below the base's",
            measured=f"{lost_clean:+.3f}",
            holds=_known(lost_clean, lost_clean >= -0.05),
        ),
        moved("VSM alone: VSM above the base's", "vsm", "vsm", 1),
        moved("VSM alone: nSSM below the base's", "vsm", "nssm", -1),
        Expected(
            text="suppress beyond the line of the linear weights (diversity over consistency at its consistency ratio)",
            measured=f"{gap:+.3f}, seeds spread by {spread:.3f}"
            if math.isfinite(gap)
            else "not comparable: outside the line",
            holds=_known(gap, gap > 0) if abs(gap) > spread else None,
        ),
    ]


def above_the_linear_line(results: Results) -> float:
    """How far suppress lies above the line through base, VSM alone and the linear weights in the plane of consistency
    ratio and diversity over consistency, at its own consistency ratio; NaN beyond the line's ends.
    """
    names = [
        name for name in (BASE, "vsm", *(linear_name(w) for w in LINEAR_WEIGHTS)) if name in results.models
    ]
    line = sorted(
        (
            results.measure(name, "consistency_ratio").mean,
            results.measure(name, "diversity_over_consistency").mean,
        )
        for name in names
    )
    x, y = (
        results.measure("suppress", name).mean for name in ("consistency_ratio", "diversity_over_consistency")
    )
    heights = [
        left_y + (right_y - left_y) * ((x - left) / (right - left) if right > left else 0.5)
        for (left, left_y), (right, right_y) in itertools.pairwise(line)
        if left <= x <= right
    ]
    return y - max(heights) if heights else math.nan


def _known(value: float, holds: bool) -> bool | None:
    return holds if math.isfinite(value) else None
