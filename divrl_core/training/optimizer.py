"""AdamW as the settings ask for it, and its learning rate."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import OptimConfig


def make_optimizer(config: OptimConfig, parameters: list[Tensor]) -> torch.optim.AdamW:
    """AdamW on the LoRA's parameters, with the settings' eps."""
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=config.betas, eps=config.eps, weight_decay=config.weight_decay
    )


def learning_rate(config: OptimConfig, number: int) -> float:
    """The learning rate of update `number`, counted from 0: a linear rise over the warm-up, then constant."""
    return config.lr * min(1.0, (number + 1) / max(1, config.warmup_updates))
