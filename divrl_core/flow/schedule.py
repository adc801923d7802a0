"""The times of a sampling run: evenly spaced, then shifted towards noise for larger pictures."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def shift_mu(
    token_count: int, *, base: tuple[int, float] = (256, 0.5), top: tuple[int, float] = (4096, 1.15)
) -> float:
    """The schedule's shift for a picture of so many tokens, a straight line through two points.

    ``mu = y0 + (n - n0) (y1 - y0) / (n1 - n0)``, as FLUX.1-Kontext's pipeline does it.

    Args:
        token_count: tokens of the target picture alone (height/16 x width/16 for FLUX), at least 1.
        base: (token count, mu) of the first point.
        top: (token count, mu) of the second point.

    Returns:
        mu; larger pictures get a larger one and stay longer near noise. 1024 tokens (512 px): 0.63.
    """
    if token_count < 1:
        raise ValueError(f"token_count must be at least 1, got {token_count}")
    if base[0] == top[0]:
        raise ValueError(f"base and top must differ in their token counts, both are {base[0]}")
    slope = (top[1] - base[1]) / (top[0] - base[0])
    return base[1] + (token_count - base[0]) * slope


def sigmas(steps: int, mu: float) -> Tensor:
    """The times of a sampling run from pure noise to the picture.

    ``linspace(1, 1/steps, steps)``, each shifted by ``e^mu / (e^mu + 1/t - 1)``, with 0 appended.
    At 512 px (mu = 0.63) and 6 steps: 1, .904, .790, .653, .484, .273, 0.

    Args:
        steps: number of sampling steps, at least 1.
        mu: shift of the schedule, from `shift_mu`; 0 leaves the times evenly spaced.

    Returns:
        float64 tensor (steps + 1,), falling from exactly 1 to exactly 0. Step i goes from entry i to i + 1.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not math.isfinite(mu):
        raise ValueError(f"mu must be a finite number, got {mu}; take it from shift_mu(token_count)")
    even = torch.linspace(1, 1 / steps, steps, dtype=torch.float64)
    # The same fraction divided through by e^mu, so that the first time is 1 and not a hair less.
    shifted = 1 / (1 + math.exp(-mu) * (1 / even - 1))
    return torch.cat([shifted, torch.zeros(1, dtype=torch.float64)])
