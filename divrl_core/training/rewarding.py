"""From pictures to rewards: one pass of the backbone, then the reward that the settings name.

A reference's features are made once and kept for as long as there is room. A score that cannot be computed stays
undefined (NaN) all the way to the advantages; an infinite one is an error.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ..config import BackboneConfig, RewardConfig
from ..models.features.base import Backbone, load_backbone
from ..rewards.features import FeatureBatch
from ..rewards.gate import Reward
from ..rewards.measures import MORE_MEASURES, measures_of
from ..rewards.novelty import marginal_novelty
from ..rewards.score import ReferenceFeatures, Scores
from ..selection.diverse import structural_distances
from .measurer import Measurer
from .own_reward import OwnReward, RewardFunction
from .references import PromptPair, Reference, ReferenceSet
from .remote_reward import RemoteReward
from .reward_device import is_same_device, usable_device
from .reward_formula import (
    HELD_OUT,
    SECOND,
    formula_total,
    gap_or_unknown,
    gates_of,
    needed_measures,
)

logger = logging.getLogger("divrl")

KEPT_PICTURES = 8  # of references, for a function or a server: a group after another asks for the same


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


def brightness_reward(images: Tensor) -> Reward:
    """The smoke test: the mean of all pixels, in [0, 1]. Nothing is measured, so the parts are undefined."""
    total = images.float().mean(dim=(1, 2, 3))
    unknown = torch.full_like(total, torch.nan)
    return Reward(total=total, nssm=unknown, vsm=unknown, gap=unknown)


NEEDS_NO_SCORES = frozenset({"brightness"})


class Rewarder:
    """Scores and rewards of pictures against the references of a run."""

    def __init__(
        self,
        config: RewardConfig,
        backbone: Backbone,
        *,
        size_px: int,
        second: Backbone | None = None,
        held_out: Backbone | None = None,
        judge: Judge | None = None,
        novelty_scale: float | None = None,
        device: torch.device | None = None,
        is_apart: bool = False,
    ) -> None:
        """`size_px`: side at which references are loaded. `judge`: the reward, where it is not a formula.

        `second`, `held_out`: further backbones. `novelty_scale`: h of the diversity within a group; None = it is not
        measured. `device`: where the pictures that are paid for are wanted; None = the CPU. `is_apart`: the reward
        works elsewhere than the model, so that scoring can go on beside sampling.
        """
        self.config, self.backbone = config, backbone
        self.gates = gates_of(config, backbone, second)
        self.consistency_cutoff = backbone.settings.consistency_cutoff
        self.judge, self.is_apart = judge, is_apart
        self.takes_groups = config.function_takes == "group"
        self.wants_groups = self.takes_groups or novelty_scale is not None
        self.device = device or torch.device("cpu")
        self._size_px, self._novelty_scale = size_px, novelty_scale
        self._measures = config.kind not in NEEDS_NO_SCORES if judge is None else judge.needs_scores
        self._main = Measurer(backbone, size_px=size_px)
        self._second = None if second is None else Measurer(second, size_px=size_px)
        self._held_out = None if held_out is None else Measurer(held_out, size_px=size_px)
        self._needed = needed_measures(config)
        self._pictures: OrderedDict[str, Reference] = OrderedDict()
        if novelty_scale is not None and not self._measures:
            raise ValueError(
                f"grpo.diversity_weight needs a reward that is measured by a backbone, got reward.kind={config.kind}"
            )

    @property
    def trouble(self) -> str:
        """Why rewards may be undefined, where the reward itself knows; else empty."""
        return "" if self.judge is None else self.judge.trouble

    @property
    def sources(self) -> dict[str, str]:
        """The backbones in words, by the beginning of their measures' names."""
        further = {SECOND: self._second, HELD_OUT: self._held_out}
        return {"": self.backbone.source} | {
            name: one.backbone.source for name, one in further.items() if one is not None
        }

    @property
    def more_names(self) -> tuple[str, ...]:
        """The further measures that `reward` tells of every sample, in the order of their names."""
        names = {name for name in self._needed if name not in ("nssm", "vsm")} if self._measures else set()
        return tuple(sorted(names | ({"novelty"} if self._novelty_scale is not None else set())))

    def reward(self, images: Tensor, references: ReferenceSet, pair: PromptPair) -> Reward:
        """Rewards of pictures (B, 3, H, W) in [0, 1] of one pair; each part (B,), NaN = undefined.

        Where `wants_groups` says so, the pictures must be the pair's whole group. Raises ValueError with the term when
        a reward is infinite.
        """
        images = images.to(self.device)
        if self._measures:
            scores = self.scores(images, references, pair.reference_id)
        else:
            unknown = torch.full((len(images),), torch.nan, device=images.device)
            scores = Scores(unknown, unknown, torch.zeros_like(unknown, dtype=torch.long))
        reward = self.pay(images, references, pair, scores)
        for term, values in {
            "nssm": reward.nssm,
            "vsm": reward.vsm,
            **reward.more,
            "total": reward.total,
        }.items():
            if torch.isinf(values).any():
                raise ValueError(
                    f"reward: {term} of a picture of {pair.reference_id} is infinite; "
                    "look at the reference and its mask"
                )
        return reward

    def pay(self, images: Tensor, references: ReferenceSet, pair: PromptPair, scores: Scores) -> Reward:
        """The reward of pictures (B, 3, H, W) of one pair whose measures are known already."""
        if self.judge is None and self.config.kind in NEEDS_NO_SCORES:
            return brightness_reward(images)
        measures = scores.by_name
        gap = gap_or_unknown(measures, self.gates, scores.vsm)
        if self.judge is None:
            total = formula_total(self.config, measures, self.gates)
            return Reward(total, scores.nssm, scores.vsm, gap, scores.more)
        reference = self._reference_picture(references, pair.reference_id)
        paid = self.judge(images.to(self.device), reference, pair, scores)
        if isinstance(paid, Reward):
            return replace(paid, more=scores.more)
        return Reward(paid, scores.nssm, scores.vsm, gap, scores.more)

    @torch.no_grad()
    def scores(self, images: Tensor, references: ReferenceSet, reference_id: str) -> Scores:
        """nSSM, VSM and what else the reward needs of pictures (B, 3, H, W) in [0, 1] against one reference."""
        features = self._main.look(images)
        scores = self._main.scores(features, references, reference_id, self._own("", self._needed))
        more = dict(scores.more)
        if self._second is not None and any(name.startswith(SECOND) for name in self._needed):
            wanted = self._own(SECOND, self._needed)
            second = self._second.scores(self._second.look(images), references, reference_id, wanted)
            more |= {name: values for name, values in _named(SECOND, second).items() if name in self._needed}
        if self._novelty_scale is not None:
            reference = self._main.reference(references, reference_id)
            pool = self.backbone.settings.score.nssm_pool
            distances = structural_distances(features.structure, reference.structure_mask, pool=pool)
            more["novelty"] = marginal_novelty(distances, scale=self._novelty_scale).to(scores.nssm.device)
        return replace(scores, more=more)

    @torch.no_grad()
    def scores_each(
        self, images: Tensor, references: ReferenceSet, reference_ids: Sequence[str]
    ) -> tuple[Scores, FeatureBatch]:
        """Every measure of every backbone, of pictures (B, 3, H, W) that have each their own reference; and features.

        One pass of each backbone. Those of the second and of the held-out backbone begin with its name.
        """
        features = self._main.look(images)
        scores = self._main.scores_each(features, references, reference_ids, measures_of(features))
        more = dict(scores.more)
        for prefix, further in ((SECOND, self._second), (HELD_OUT, self._held_out)):
            if further is not None:
                seen = further.look(images)
                measured = further.scores_each(seen, references, reference_ids, measures_of(seen))
                more |= {
                    name: values.to(scores.vsm.device) for name, values in _named(prefix, measured).items()
                }
        return replace(scores, more=more), features

    def reference(self, references: ReferenceSet, reference_id: str) -> ReferenceFeatures:
        """The reference as the main backbone sees it, prepared; the last ones used are kept."""
        return self._main.reference(references, reference_id)

    def prepare(self, reference_id: str, reference: Reference) -> None:
        """Make a reference's features and keep them. Raises ValueError when its object is too small for a grid."""
        crops = "nssm_cropped" in self._needed
        self._main.prepare(reference_id, reference, with_crop=crops)
        for measurer in (self._second, self._held_out):
            if measurer is not None:
                measurer.prepare(reference_id, reference)

    @staticmethod
    def _own(prefix: str, names: Collection[str]) -> frozenset[str]:
        """Of the names with a prefix ("" = none) those of `MORE_MEASURES`, without it."""
        return frozenset(name for name in MORE_MEASURES if prefix + name in names)

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


def _named(prefix: str, scores: Scores) -> dict[str, Tensor]:
    return {prefix + name: values for name, values in scores.by_name.items()}


def open_rewarder(
    config: RewardConfig,
    *,
    size_px: int,
    model_device: torch.device,
    function: RewardFunction | None = None,
    novelty_scale: float | None = None,
) -> Rewarder:
    """The reward as the settings say, with its backbone, on its device; a server is asked who it is.

    `function` stands in place of the reward that config.kind names. `novelty_scale`: h of the diversity within a group,
    where that is asked for. Raises ValueError for a device, a function or a
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
        second=_further(config.second_backbone, device),
        held_out=_further(config.held_out_backbone, device),
        judge=judge,
        novelty_scale=novelty_scale,
        device=torch.device("cpu") if is_remote else device,
        is_apart=is_remote or not is_same_device(device, model_device),
    )


def _further(config: BackboneConfig, device: torch.device) -> Backbone | None:
    return None if config.name is None else load_backbone(config, device=device)
