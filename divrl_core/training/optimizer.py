"""The optimizer as the settings ask for it, and its learning rate."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from ..config import OptimConfig

PACKAGES = {"adamw8bit": "bitsandbytes", "prodigy": "prodigyopt"}


def make_optimizer(
    config: OptimConfig, parameters: list[Tensor], lr: float | None = None
) -> torch.optim.Optimizer:
    """The optimizer on the LoRA's parameters, with the settings' eps.

    adamw8bit is bitsandbytes' AdamW with moments in 8 bits; prodigy (arXiv:2306.06101) estimates its own rate, which
    `lr` multiplies. Raises ImportError, with what to install, when the package is missing.
    """
    missing = missing_package(config)
    if missing:
        raise ImportError(missing)
    rate = config.lr if lr is None else lr
    settings = {"lr": rate, "betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
    optimizer: torch.optim.Optimizer
    if config.name == "adamw8bit":
        from bitsandbytes import optim

        optimizer = optim.AdamW8bit(parameters, **settings)
    elif config.name == "prodigy":
        from prodigyopt import Prodigy

        optimizer = Prodigy(parameters, **settings, use_bias_correction=True, safeguard_warmup=True)
    else:
        optimizer = torch.optim.AdamW(parameters, **settings)  # type: ignore[arg-type]
    return optimizer


def missing_package(config: OptimConfig) -> str | None:
    """What to install for the optimizer that the settings name; None when all is there."""
    package = PACKAGES.get(config.name)
    if package is None or find_spec(package):
        return None
    return f"optim.name={config.name} needs its package: pip install {package} (or take optim.name=adamw)"


def learning_rate(config: OptimConfig, number: int, lr: float | None = None) -> float:
    """The learning rate of update `number`, counted from 0: a linear rise over the warm-up, then constant."""
    rate = config.lr if lr is None else lr
    return rate * min(1.0, (number + 1) / max(1, config.warmup_updates))
