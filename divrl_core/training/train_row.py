"""What metrics.jsonl says of one update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..config import TrainConfig
from .algorithms import LearnedStats
from .experience import Experience


@dataclass(frozen=True, kw_only=True)
class UpdateCost:
    """What an update took: seconds of this process in training, processor seconds and model evaluations of all.

    cpu_seconds: of rollout, reward and training, every thread of these processes. model_evaluations: a forward of one
    sample counts 1, with its backward 3.
    """

    train_seconds: float
    cpu_seconds: float
    model_evaluations: int


def train_row(
    config: TrainConfig,
    update: int,
    experience: Experience,
    stats: LearnedStats,
    rate: float,
    cost: UpdateCost,
) -> dict[str, Any]:
    """The row of metrics.jsonl for one update; NaN (null in the file) where nothing was measured."""
    reward, advantages = experience.reward, experience.advantages
    known_gap = reward.gap[torch.isfinite(reward.gap)]
    return {
        "kind": "train",
        "stage": config.stage,
        "update": update,
        "reward": reward.total[advantages.valid].double().mean().item(),
        "nssm": reward.nssm.double().nanmean().item(),
        "vsm": reward.vsm.double().nanmean().item(),
        **{name: values.double().nanmean().item() for name, values in reward.more.items()},
        "gate_rate": (known_gap == 0).double().mean().item(),
        "reward_std_within": advantages.group_std.double().nanmean().item(),
        "flat_groups": advantages.flat_groups.double().mean().item(),
        "invalid": int((~advantages.valid).sum()),
        "samples": len(advantages.valid),
        **stats.row(),
        "lr": rate,
        "model_evaluations": cost.model_evaluations,
        "cpu_seconds": round(cost.cpu_seconds, 3),
        "seconds": {
            "rollout": round(experience.rollout_seconds, 3),
            "reward": round(experience.reward_seconds, 3),
            "train": round(cost.train_seconds, 3),
        },
    }
