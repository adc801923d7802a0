"""From pictures to rewards: one pass of the backbone, then the reward that the settings name.

A reference's features are made once and kept for as long as there is room. A score that cannot be computed stays
undefined (NaN) all the way to the advantages; an infinite one is an error.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from ..config import RewardConfig
from ..models.features.base import Backbone, load_backbone
from ..rewards.gate import Reward, explore_reward, linear_reward, suppress_reward, vsm_reward
from ..rewards.score import ReferenceFeatures, Scores, reference_features, score_images
from .own_reward import OwnReward, RewardFunction
from .references import PromptPair, Reference, ReferenceSet
from .remote_reward import RemoteReward
from .reward_device import is_same_device, usable_device

logger = logging.getLogger("divrl")

KEPT_REFERENCES = 512
KEPT_PICTURES = 8  # of references, for a function or a server: a group after another asks for the same

# (pictures (B, 3, H, W), their scores, settings, gate) -> Reward
Formula = Callable[[Tensor, Scores, RewardConfig, float], Reward]


class Judge(Protocol):
    """A reward that is no formula of nSSM and VSM: a function of one's own, or a server."""

    @property
    def source(self) -> str:
        """What it is, in words."""

    @property
    def needs_scores(self) -> bool:
        """Whether nSSM and VSM are measured beside it; else it tells its own parts, or none."""

    @property
    def trouble(self) -> str:
        """Why rewards may be undefined, in words; empty where there is nothing to say."""

    def __call__(
        self, pictures: Tensor, reference: Reference, pair: PromptPair, scores: Scores
    ) -> Tensor | Reward:
        """What it pays for pictures (B, 3, H, W) of one pair: the totals (B,), or with parts."""


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


REWARDS: Mapping[str, Formula] = MappingProxyType(
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
        judge: Judge | None = None,
        device: torch.device | None = None,
        is_apart: bool = False,
    ) -> None:
        """`size_px`: side at which references are loaded. `judge`: the reward, where it is not a formula.

        `device`: where the pictures that are paid for are wanted; None = the CPU. `is_apart`: the reward works
        elsewhere than the model, so that scoring can go on beside sampling.
        """
        self.config, self.backbone = config, backbone
        self.gate = backbone.settings.gate if config.gate is None else config.gate
        self.consistency_cutoff = backbone.settings.consistency_cutoff
        self.judge, self.is_apart = judge, is_apart
        self.takes_groups = config.function_takes == "group"
        self.device = device or torch.device("cpu")
        self._size_px = size_px
        self._measures = config.kind not in NEEDS_NO_SCORES if judge is None else judge.needs_scores
        self._kept: OrderedDict[str, ReferenceFeatures] = OrderedDict()
        self._pictures: OrderedDict[str, Reference] = OrderedDict()

    @property
    def trouble(self) -> str:
        """Why rewards may be undefined, where the reward itself knows; else empty."""
        return "" if self.judge is None else self.judge.trouble

    def reward(self, images: Tensor, references: ReferenceSet, pair: PromptPair) -> Reward:
        """Rewards of pictures (B, 3, H, W) in [0, 1] of one pair; each part (B,), NaN = undefined.

        Where `takes_groups` says so, the pictures must be the pair's whole group. Raises ValueError with the term when
        a reward is infinite.
        """
        images = images.to(self.device)
        if self._measures:
            scores = self.scores(images, references, pair.reference_id)
        else:
            unknown = torch.full((len(images),), torch.nan, device=images.device)
            scores = Scores(unknown, unknown, torch.zeros_like(unknown, dtype=torch.long))
        reward = self.pay(images, references, pair, scores)
        for term in ("nssm", "vsm", "total"):
            if torch.isinf(getattr(reward, term)).any():
                raise ValueError(
                    f"reward: {term} of a picture of {pair.reference_id} is infinite; "
                    "look at the reference and its mask"
                )
        return reward

    def pay(self, images: Tensor, references: ReferenceSet, pair: PromptPair, scores: Scores) -> Reward:
        """The reward of pictures (B, 3, H, W) of one pair whose nSSM and VSM are known already."""
        if self.judge is None:
            return REWARDS[self.config.kind](images, scores, self.config, self.gate)
        reference = self._reference_picture(references, pair.reference_id)
        paid = self.judge(images.to(self.device), reference, pair, scores)
        if isinstance(paid, Reward):
            return paid
        return replace(explore_reward(scores.nssm, scores.vsm, gate=self.gate), total=paid)

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

    def _reference_picture(self, references: ReferenceSet, reference_id: str) -> Reference:
        """The reference's picture and mask on the reward's device; the last ones used are kept."""
        if reference_id not in self._pictures:
            loaded = references.load(reference_id, self._size_px)
            moved = Reference(loaded.image.to(self.device), loaded.mask.to(self.device))
            self._pictures[reference_id] = moved
            if len(self._pictures) > KEPT_PICTURES:
                self._pictures.popitem(last=False)
        self._pictures.move_to_end(reference_id)
        return self._pictures[reference_id]


def open_rewarder(
    config: RewardConfig,
    *,
    size_px: int,
    model_device: torch.device,
    function: RewardFunction | None = None,
) -> Rewarder:
    """The reward as the settings say, with its backbone, on its device; a server is asked who it is.

    `function` stands in place of the reward that config.kind names. Raises ValueError for a device, a function or a
    server that cannot be used, FileNotFoundError when the backbone's weights are not installed.
    """
    device = usable_device(config.device) if config.device is not None else model_device
    judge: Judge | None = None
    if function is not None:
        judge = OwnReward(function)
    elif config.function is not None:
        judge = OwnReward.load(config.function)
    elif config.kind == "remote":
        judge = RemoteReward.connect(config.remote, takes_groups=config.function_takes == "group")
        logger.info("%s: %s (%s)", judge.source, judge.greeting.name, judge.greeting.source)
    is_remote = isinstance(judge, RemoteReward)
    return Rewarder(
        config,
        load_backbone(config.backbone, device=device),
        size_px=size_px,
        judge=judge,
        device=torch.device("cpu") if is_remote else device,
        is_apart=is_remote or not is_same_device(device, model_device),
    )
