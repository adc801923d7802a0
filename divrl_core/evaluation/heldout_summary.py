"""What held-out pictures' scores come to: the measures of an evaluation with their errors, and what a run is chosen by.

The measures are named in `heldout.py`. Pictures of one reference resemble each other, so standard errors take
references, not pictures, as independent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..config import RewardConfig
from ..training.reward_formula import measures_in
from .consistency import is_consistent
from .heldout_reward import rewards_of
from .paired import NEW_POSE, NEW_POSE_DEG, TRUTHS, TURNED


@dataclass(frozen=True, kw_only=True)
class SampleScore:
    """Scores of one held-out picture; NaN = undefined."""

    reference_id: str
    prompt: str
    sample: int
    nssm: float
    vsm: float
    clean: float = math.nan  # 1 or 0; NaN where the world is not known
    identity_error: float = math.nan
    pose_change_deg: float = math.nan
    reward: float | None = None  # what a reward that is no formula of measures pays; None where it is one
    more: Mapping[str, float] = field(default_factory=dict)  # further measures by name


def held_out_measures(reward: RewardConfig, samples: Sequence[SampleScore]) -> list[str]:
    """The measures of the pictures that the reward is not made of, by name; of those that train, none is among them."""
    taken = {"nssm", "vsm"}.union(*(sample.more for sample in samples))
    return sorted(taken - measures_in(reward))


def summarise(samples: Sequence[SampleScore], *, consistency_cutoff: float) -> dict[str, Any]:
    """The four measures with standard errors, and what they rest on; NaN where nothing is defined.

    A picture without one of its scores is counted in `undefined` and left out of the measures that need it.
    """

    def passes(sample: SampleScore) -> float:
        return float(is_consistent(sample.vsm, consistency_cutoff))

    with_nssm = [sample for sample in samples if not math.isnan(sample.nssm)]
    with_vsm = [sample for sample in samples if not math.isnan(sample.vsm)]
    consistent = [sample for sample in with_vsm if passes(sample) and not math.isnan(sample.nssm)]
    summary: dict[str, Any] = {
        "n": len(samples),
        "undefined": sum(math.isnan(sample.nssm) or math.isnan(sample.vsm) for sample in samples),
        "n_references": len({sample.reference_id for sample in samples}),
    }
    values: dict[str, list[tuple[str, float]]] = {
        "nssm": [(sample.reference_id, sample.nssm) for sample in with_nssm],
        "vsm": [(sample.reference_id, sample.vsm) for sample in with_vsm],
        "consistency_ratio": [(sample.reference_id, passes(sample)) for sample in with_vsm],
        "diversity_over_consistency": [(sample.reference_id, sample.nssm) for sample in consistent],
    }
    judged = [sample for sample in samples if not math.isnan(sample.clean)]
    clean = [sample for sample in judged if sample.clean]
    if judged:
        values |= {
            "clean_share": [(sample.reference_id, sample.clean) for sample in judged],
            "pose_change_deg": [(sample.reference_id, sample.pose_change_deg) for sample in clean],
            "identity_error": [(sample.reference_id, sample.identity_error) for sample in judged],
            TURNED: [(sample.reference_id, float(_is_turned(sample))) for sample in judged],
            NEW_POSE: [(sample.reference_id, float(_is_turned(sample)) * sample.clean) for sample in judged],
        }
        summary["n_clean"] = len(clean)
    for name in dict.fromkeys(name for sample in samples for name in sample.more):
        rows = [(sample.reference_id, sample.more.get(name, math.nan)) for sample in samples]
        values[name] = [row for row in rows if not math.isnan(row[1])]
    for name, rows in values.items():
        summary[name], summary[f"{name}_se"] = clustered_mean(rows)
    return summary | {"n_consistent": len(consistent)}


def _is_turned(sample: SampleScore) -> bool:
    return sample.pose_change_deg > NEW_POSE_DEG


def clustered_mean(values: Sequence[tuple[str, float]]) -> tuple[float, float]:
    """Mean of (reference, value) rows and its standard error with references as the independent units.

    With one reference alone its pictures are taken one by one; the error of fewer than two units is NaN.
    """
    if not values:
        return math.nan, math.nan
    mean = math.fsum(value for _, value in values) / len(values)
    units: dict[object, float] = defaultdict(float)
    has_several = len({reference for reference, _ in values}) > 1
    for place, (reference, value) in enumerate(values):
        units[reference if has_several else place] += (value - mean) / len(values)
    count = len(units)
    if count < 2:
        return mean, math.nan
    return mean, math.sqrt(count / (count - 1) * math.fsum(part**2 for part in units.values()))


def selection_summary(
    reward: RewardConfig, samples: Sequence[SampleScore], *, gates: Mapping[str, float]
) -> dict[str, float]:
    """`selection`, the held-out number that the best LoRA is chosen by, and `selection_se`; NaN where undefined.

    It is the mean of what the reward pays for each picture: its formula where it is one (reward_formula.py). own and
    remote: what the function or the server paid. brightness is not
    measured on held-out pictures: there nSSM stands in, so that a smoke test has a best LoRA too. Errors are those of
    the mean, clustered by reference.
    """
    names = [sample.reference_id for sample in samples]
    values = zip(names, rewards_of(reward, samples, gates), strict=True)
    mean, error = clustered_mean([(name, value) for name, value in values if not math.isnan(value)])
    return {"selection": mean, "selection_se": error}


def selection_score(row: Mapping[str, Any]) -> float:
    """`selection` of a held-out row; higher is better, -inf where undefined."""
    value = row["selection"]
    return float(value) if _all_defined([value]) else -math.inf


def sample_row(sample: SampleScore) -> dict[str, Any]:
    """A picture's scores by name; its reward, and what is true of it, only where that is known."""
    row = {part.name: getattr(sample, part.name) for part in fields(sample) if part.name != "more"}
    unknown = {*(TRUTHS if math.isnan(sample.clean) else ()), *(("reward",) if sample.reward is None else ())}
    return {name: row[name] for name in row if name not in unknown} | dict(sample.more)


def _all_defined(values: Sequence[float | None]) -> bool:
    return all(value is not None and not math.isnan(value) for value in values)
