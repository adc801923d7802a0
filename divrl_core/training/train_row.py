"""What metrics.jsonl says of one update."""

from __future__ import annotations

from typing import Any

import torch

from ..config import TrainConfig
from .experience import Experience
from .update import UpdateStats


def train_row(
    config: TrainConfig,
    update: int,
    experience: Experience,
    stats: UpdateStats,
    rate: float,
    train_seconds: float,
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
        "ratio_mean": stats.ratio_mean,
        "ratio_max_deviation": stats.ratio_max_deviation,
        "clip_share": stats.clip_share,
        "kl": stats.kl,
        "grad_rms": stats.grad_rms,
        "grad_norm": stats.grad_norm,
        "lr": rate,
        "seconds": {
            "rollout": round(experience.rollout_seconds, 3),
            "reward": round(experience.reward_seconds, 3),
            "train": round(train_seconds, 3),
        },
    }
