"""What measures and rewards answer to pictures of one change each, and how far they ask for what is wanted.

A reward is judged by order, not by size: the chance that a picture it should pay for gets more than one that it should
let be, and more than one that it should punish (areas under the ROC curve; .5 is a coin). Pictures of all figures
together, since a policy meets them all with one reward.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..models.features.base import Backbone
from ..rewards.measures import measures_of
from ..rewards.score import reference_features, score_images
from .answer_cases import WANTED
from .calibrate import area_under_curve
from .calibration_cases import CalibrationCase

# measure -> change -> (figures,)
Answers = dict[str, dict[str, Tensor]]


def answers_of(backbone: Backbone, cases: Iterable[CalibrationCase]) -> Answers:
    """Every measure of every picture; NaN = undefined. The cosine only where the backbone has one."""
    parts: dict[str, dict[str, list[float]]] = {}
    for case in cases:
        features = backbone.extract(torch.stack([case.reference, *case.others.values()]))
        settings = backbone.settings.score
        reference = reference_features(features.select(slice(0, 1)), case.mask, settings)
        scores = score_images(
            features.select(slice(1, None)), reference, settings, more=measures_of(features)
        )
        measured = {"nssm": scores.nssm, "vsm": scores.vsm, **scores.more}
        for name, values in measured.items():
            for change, value in zip(case.others, values.tolist(), strict=True):
                parts.setdefault(name, {}).setdefault(change, []).append(value)
    return {
        name: {change: torch.tensor(values) for change, values in by_change.items()}
        for name, by_change in parts.items()
    }


def separations(rewards: Mapping[str, Tensor]) -> dict[str, float]:
    """How far a reward pays what is wanted, from its values by change: three areas under the ROC curve.

    `over copies`: pay against let be. `over damage`: pay against punish. `copies over damage`: let be against punish.
    """
    groups = {
        wanted: torch.cat([rewards[change] for change, asked in WANTED.items() if asked == wanted])
        for wanted in ("pay", "let be", "punish")
    }
    return {
        "over copies": area_under_curve(groups["pay"], groups["let be"]),
        "over damage": area_under_curve(groups["pay"], groups["punish"]),
        "copies over damage": area_under_curve(groups["let be"], groups["punish"]),
    }


def mean_and_error(values: Tensor) -> tuple[float, float, int]:
    """Mean, its standard error, and how many are undefined, of (figures,) values."""
    known = values[~values.isnan()].double()
    count = len(known)
    error = float(known.std() / count**0.5) if count > 1 else float("nan")
    return float(known.mean()) if count else float("nan"), error, len(values) - count


def changes_of(answers: Mapping[str, Sequence[float]]) -> list[str]:
    """The changes in the order of `WANTED`."""
    return [change for change in WANTED if change in answers]
