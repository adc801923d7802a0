"""Paired differences between two models that were evaluated on the same references, prompts and noise.

The pictures of one reference resemble each other, so a standard error that counts pictures as independent
is too small. Here it is the delete-one-reference jackknife: with theta_g the difference without reference
g, of G references, se = sqrt((G - 1) / G * sum_g (theta_g - mean theta)^2). For plain means over equally
many pictures a reference this is the standard error of the references' means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .consistency import is_consistent

MEASURES = ("nssm", "vsm", "consistency_ratio", "diversity_over_consistency")
TRUE_MEASURES = ("clean_share", "pose_change_deg", "identity_error")  # where the world is known
TRUTHS = ("clean", "identity_error", "pose_change_deg")  # the values of a sample behind them

NEW_POSE_DEG = 12.0  # the jitter of a copy stays below it: docs/pocket.md
TURNED, NEW_POSE = "turned_share", "new_pose_share"

LEAST_DIFFERENCE = 0.0005  # what would be printed as .000 is no movement, however steady

Sample = Mapping[str, Any]
Pair = tuple[Sample, Sample]


@dataclass(frozen=True)
class Difference:
    """After minus before: the mean, its standard error, how many pairs of pictures and references it rests
    on.
    """

    mean: float
    se: float
    n: int
    references: int

    @property
    def direction(self) -> int:
        """+1 or -1 where the difference is larger than twice its standard error and than .0005, else 0."""
        if not (math.isfinite(self.mean) and math.isfinite(self.se)):
            return 0
        if abs(self.mean) <= max(2 * self.se, LEAST_DIFFERENCE):
            return 0
        return 1 if self.mean > 0 else -1


def paired_differences(
    before: Sequence[Sample], after: Sequence[Sample], *, consistency_cutoff: float | None
) -> dict[str, Difference]:
    """The difference of every measure, after minus before, over the pictures that both models made.

    A sample holds `reference_id`, `prompt`, `sample`, `nssm`, `vsm`; an undefined score (None or NaN)
    leaves its pair out of the measures that need it. Without a cut-off only nssm and vsm are compared. n of
    diversity_over_consistency is the smaller number of consistent pictures. Empty when the two share no
    picture.
    """
    pairs = matched_pairs(before, after)
    with_nssm = [pair for pair in pairs if _both_defined(pair, "nssm")]
    with_vsm = [pair for pair in pairs if _both_defined(pair, "vsm")]
    if not pairs:
        return {}
    differences = {
        "nssm": _difference(with_nssm, _mean_change(lambda sample: sample["nssm"])),
        "vsm": _difference(with_vsm, _mean_change(lambda sample: sample["vsm"])),
    }
    judged = [pair for pair in pairs if _both_defined(pair, "clean")]
    if judged:
        differences |= {
            "clean_share": _difference(judged, _mean_change(lambda sample: sample["clean"])),
            "pose_change_deg": _difference(judged, _change_in_pose, n=_fewer_clean(judged)),
            "identity_error": _difference(judged, _mean_change(lambda sample: sample["identity_error"])),
        }
    if consistency_cutoff is None:
        return differences
    cutoff = consistency_cutoff
    with_both = [pair for pair in with_vsm if _both_defined(pair, "nssm")]

    def passes(sample: Sample) -> float:
        return float(is_consistent(sample["vsm"], cutoff))

    def diversity(samples: Sequence[Sample]) -> float:
        return _mean([sample["nssm"] for sample in samples if passes(sample)])

    def change_in_diversity(chosen: Sequence[Pair]) -> float:
        return diversity([after for _, after in chosen]) - diversity([before for before, _ in chosen])

    counts = [sum(passes(pair[side]) for pair in with_both) for side in (0, 1)]
    return {
        **differences,
        "consistency_ratio": _difference(with_vsm, _mean_change(passes)),
        "diversity_over_consistency": _difference(
            with_both, change_in_diversity, n=int(min(counts, default=0))
        ),
    }


def _change_in_pose(pairs: Sequence[Pair]) -> float:
    """The mean change of pose over each side's clean pictures, after minus before."""
    before, after = (
        _mean([pair[side]["pose_change_deg"] for pair in pairs if pair[side]["clean"]]) for side in (0, 1)
    )
    return after - before


def _fewer_clean(pairs: Sequence[Pair]) -> int:
    return min(sum(bool(pair[side]["clean"]) for pair in pairs) for side in (0, 1))


def matched_pairs(before: Sequence[Sample], after: Sequence[Sample]) -> list[Pair]:
    """Samples of the same reference, prompt and number, which share their noise, in the order of `before`."""
    others = {_key(sample): sample for sample in after}
    return [(sample, others[_key(sample)]) for sample in before if _key(sample) in others]


def is_defined(value: object) -> bool:
    """Whether a score is a number: not None, not NaN."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def _difference(
    pairs: Sequence[Pair], statistic: Callable[[Sequence[Pair]], float], n: int | None = None
) -> Difference:
    names = [pair[0]["reference_id"] for pair in pairs]
    references = len(set(names))
    # One reference alone has no neighbours to leave out: then its pictures are taken one by one.
    clusters = names if references > 1 else list(range(len(pairs)))
    left_out = [
        statistic([pair for pair, name in zip(pairs, clusters, strict=True) if name != cluster])
        for cluster in dict.fromkeys(clusters)
    ]
    return Difference(statistic(pairs), _jackknife_se(left_out), len(pairs) if n is None else n, references)


def _jackknife_se(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt((len(values) - 1) / len(values) * sum((value - mean) ** 2 for value in values))


def _mean_change(score: Callable[[Sample], float]) -> Callable[[Sequence[Pair]], float]:
    return lambda pairs: _mean([score(after) - score(before) for before, after in pairs])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _both_defined(pair: Pair, name: str) -> bool:
    return is_defined(pair[0].get(name)) and is_defined(pair[1].get(name))


def _key(sample: Sample) -> tuple[str, str, int]:
    return str(sample["reference_id"]), str(sample["prompt"]), int(sample["sample"])
