"""The objectives of GRPO by name: what a trained step's log-probability, mean and advantages come to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ..config import GrpoConfig
from ..flow.sde import Gaussian
from ..rl.dppo import dppo_policy_loss
from ..rl.grpo import PolicyTerm, clipped_policy_loss
from .rollout import TrainedStep


class Objective(Protocol):
    """The policy loss of the samples `rows` (K,) of a step, with their advantages (K,).

    log_prob (B,) and gaussian are the policy's now; `step` remembers those of the rollout.
    """

    def __call__(
        self,
        config: GrpoConfig,
        step: TrainedStep,
        log_prob: Tensor,
        gaussian: Gaussian,
        advantages: Tensor,
        rows: Tensor,
    ) -> PolicyTerm: ...


def clip(
    config: GrpoConfig,
    step: TrainedStep,
    log_prob: Tensor,
    gaussian: Gaussian,
    advantages: Tensor,
    rows: Tensor,
) -> PolicyTerm:
    """The ratio clip of eq. 2."""
    return clipped_policy_loss(log_prob[rows], step.log_prob[rows], advantages, clip_range=config.clip_range)


def dppo(
    config: GrpoConfig,
    step: TrainedStep,
    log_prob: Tensor,
    gaussian: Gaussian,
    advantages: Tensor,
    rows: Tensor,
) -> PolicyTerm:
    """Flow-DPPO; the rollout must have kept its means."""
    assert step.mean is not None, "the sampling plan keeps means for this objective"
    return dppo_policy_loss(
        log_prob[rows],
        step.log_prob[rows],
        advantages,
        mean=gaussian.mean[rows],
        mean_old=step.mean[rows],
        std=gaussian.std,
        threshold=config.dppo_threshold,
    )


OBJECTIVES: Mapping[str, Objective] = MappingProxyType({"clip": clip, "dppo": dppo})
