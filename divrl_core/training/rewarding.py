"""From pictures to rewards: one pass of the backbone, then the reward that the settings name.

A reference's features are made once and kept for as long as there is room. A score that cannot be computed stays
undefined (NaN) all the way to the advantages; an infinite one is an error.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from ..config import RewardConfig
from ..models.features.base import Backbone
from ..rewards.gate import Reward, explore_reward, linear_reward, suppress_reward, vsm_reward
from ..rewards.score import ReferenceFeatures, Scores, reference_features, score_images
from .references import Reference, ReferenceSet

KEPT_REFERENCES = 512

# (pictures (B, 3, H, W), scores or None, settings, gate) -> Reward
RewardFunction = Callable[[Tensor, Scores, RewardConfig, float], Reward]


def brightness_reward(images: Tensor, scores: Scores, config: RewardConfig, gate: float) -> Reward:
    """The smoke test: the mean of all pixels, in [0, 1]. Nothing is measured, so the parts are undefined."""
    total = images.float().mean(dim=(1, 2, 3))
    unknown = torch.full_like(total, torch.nan)
    return Reward(total=total, nssm=unknown, vsm=unknown, gap=unknown)


def _nssm(images: Tensor, scores: Scores, config: RewardConfig, gate: float) -> Reward:
    return explore_reward(scores.nssm, scores.vsm, gate=gate)


def _gated(images: Tensor, scores: Scores, config: RewardConfig, gate: float) -> Reward:
    return suppress_reward(scores.nssm, scores.vsm, gate=gate, penalty_weight=config.penalty_weight)


def _vsm(images: Tensor, scores: Scores, config: RewardConfig, gate: float) -> Reward:
    return vsm_reward(scores.vsm, scores.nssm, gate=gate)


def _linear(images: Tensor, scores: Scores, config: RewardConfig, gate: float) -> Reward:
    return linear_reward(scores.nssm, scores.vsm, vsm_weight=config.vsm_weight, gate=gate)


REWARDS: Mapping[str, RewardFunction] = MappingProxyType(
    {"nssm": _nssm, "gated": _gated, "vsm": _vsm, "linear": _linear, "brightness": brightness_reward}
)
NEEDS_NO_SCORES = frozenset({"brightness"})


class Rewarder:
    """Scores and rewards of pictures against the references of a run."""

    def __init__(
        self,
        config: RewardConfig,
        backbone: Backbone,
        *,
        size_px: int,
        function: RewardFunction | None = None,
    ) -> None:
        """`size_px`: side at which references are loaded. `function`: a reward of one's own instead of the named."""
        self.config, self.backbone = config, backbone
        self.gate = backbone.settings.gate if config.gate is None else config.gate
        self.consistency_cutoff = backbone.settings.consistency_cutoff
        self._size_px = size_px
        self._function = function or REWARDS[config.kind]
        self._kept: OrderedDict[str, ReferenceFeatures] = OrderedDict()

    def reward(self, images: Tensor, references: ReferenceSet, reference_id: str) -> Reward:
        """Rewards of pictures (B, 3, H, W) in [0, 1] of one reference; each part (B,), NaN = undefined.

        Raises ValueError with the term when a reward is infinite.
        """
        if self.config.kind in NEEDS_NO_SCORES:
            unknown = torch.full((len(images),), torch.nan, device=images.device)
            scores = Scores(unknown, unknown, torch.zeros_like(unknown, dtype=torch.long))
        else:
            scores = self.scores(images, references, reference_id)
        reward = self._function(images, scores, self.config, self.gate)
        for term in ("nssm", "vsm", "total"):
            if torch.isinf(getattr(reward, term)).any():
                raise ValueError(
                    f"reward: {term} of a picture of {reference_id} is infinite; "
                    "look at the reference and its mask"
                )
        return reward

    @torch.no_grad()
    def scores(self, images: Tensor, references: ReferenceSet, reference_id: str) -> Scores:
        """nSSM and VSM of pictures (B, 3, H, W) in [0, 1] against one reference."""
        reference = self.reference(references, reference_id)
        return score_images(self.backbone.extract(images), reference, self.backbone.settings.score)

    @torch.no_grad()
    def scores_each(self, images: Tensor, references: ReferenceSet, reference_ids: Sequence[str]) -> Scores:
        """nSSM and VSM of pictures (B, 3, H, W), each against its own reference; one pass of the backbone."""
        features = self.backbone.extract(images)
        parts = [
            score_images(
                features.select(slice(row, row + 1)),
                self.reference(references, reference_id),
                self.backbone.settings.score,
            )
            for row, reference_id in enumerate(reference_ids)
        ]
        return Scores(
            nssm=torch.cat([part.nssm for part in parts]),
            vsm=torch.cat([part.vsm for part in parts]),
            kept_count=torch.cat([part.kept_count for part in parts]),
        )

    def reference(self, references: ReferenceSet, reference_id: str) -> ReferenceFeatures:
        """The reference, prepared; the last ones used are kept."""
        if reference_id not in self._kept:
            self.prepare(reference_id, references.load(reference_id, self._size_px))
        self._kept.move_to_end(reference_id)
        return self._kept[reference_id]

    @torch.no_grad()
    def prepare(self, reference_id: str, reference: Reference) -> None:
        """Make a reference's features and keep them. Raises ValueError when its object is too small for the grid."""
        features = self.backbone.extract(reference.image[None])
        self._kept[reference_id] = reference_features(
            features, reference.mask, self.backbone.settings.score, name=reference_id
        )
        if len(self._kept) > KEPT_REFERENCES:
            self._kept.popitem(last=False)
