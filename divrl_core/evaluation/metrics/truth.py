"""What is true of pictures in a world that is known (the pocket's), and no network judges.

Source: pocket/truth.py and docs/truth.md: the nearest true render is searched for; a picture is clean where it is a
whole picture of its figure, its change of pose is counted in degrees of view and joints. A pose is new beyond 12
degrees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...training.references import KnownWorld, ReferenceSet, Truth, known_world
from ..paired import NEW_POSE_DEG
from .base import Direction, Metric, Shot, Subject, Values
from .shown import batches
from .within_set import set_means


def _metric(name: str, label: str, meaning: str, better: Direction, *, of_sets: bool = False) -> Metric:
    return Metric(
        name=name, label=label, meaning=meaning, better=better, family="truth", of_sets=of_sets, counts_style=False
    )  # fmt: skip


METRICS = (
    _metric("clean_share", "clean", "share of pictures that are whole pictures of their figure", "higher"),
    _metric("pose_change_deg", "pose change", "true degrees from the reference's pose, over clean pictures", "higher"),
    _metric("new_pose_share", "new pose", f"share that is clean and more than {NEW_POSE_DEG:g} degrees away", "higher"),
    _metric("identity_error", "identity error", "distance of colours to the nearest true picture", "lower"),
    _metric("set_pose_deg", "pose within the set", "true degrees between its pictures", "higher", of_sets=True),
)  # fmt: skip


def truth_columns(truths: Sequence[Truth | None]) -> dict[str, Tensor]:
    """The columns of pictures with these truths, (B,) each; NaN where a picture has none.

    Of one that is not clean no change of pose is defined.
    """
    nan = math.nan
    clean = torch.tensor([nan if truth is None else float(truth.is_clean) for truth in truths])
    pose = torch.tensor([nan if truth is None else float(truth.pose_change_deg) for truth in truths])
    return {
        "clean_share": clean,
        "pose_change_deg": pose.masked_fill(clean == 0, nan),
        "new_pose_share": clean * (pose > NEW_POSE_DEG),
        "identity_error": torch.tensor([nan if truth is None else truth.identity_error for truth in truths]),
    }


class TruthScorer:
    """The truth of square pictures; no network but the world's own judge."""

    name = "truth"
    source = "the known world: the nearest true render of each figure"
    metrics = METRICS

    def __init__(self, world: KnownWorld) -> None:
        self._world = world

    @classmethod
    def of(cls, references: ReferenceSet) -> TruthScorer:
        """Of the references' world. Raises ValueError where their truth is not known."""
        world = known_world(references)
        if world is None:
            raise ValueError(
                "metric truth: these references are of no known world; it is had with pocket alone"
            )
        return cls(world)

    def prepare(self, subject: Subject) -> str:
        """The reference's id; the world knows the rest."""
        return subject.reference_id

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Of a picture that is not square, as no render is, everything is undefined."""
        truths: list[Truth | None] = [None] * len(shots)
        for batch in batches(shots):
            if batch.shape[0] != batch.shape[1]:
                continue
            pairs = [shots[row].question.pair for row in batch.rows]
            for row, truth in zip(batch.rows, self._world.truths(batch.images, pairs), strict=True):
                truths[row] = truth
        values = truth_columns(truths)
        apart = set_means(
            shots, lambda first, second: self._apart(shots[first], truths[first], truths[second])
        )
        return values if apart is None else {**values, "set_pose_deg": apart}

    def _apart(self, shot: Shot, first: Truth | None, second: Truth | None) -> float:
        if first is None or second is None:
            return math.nan
        degrees = self._world.pose_apart_deg(shot.question.pair, first, second)
        return degrees if math.isfinite(degrees) else math.nan
