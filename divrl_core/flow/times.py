"""At which times a flow is trained, and how much each counts.

Letters: ``t`` time in [0, 1], 1 is noise; ``z`` standard normal numbers; ``u`` uniform numbers in [0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

MARGIN = (
    1e-3  # times stay this far from 0 and 1, where the loss has nothing to teach or a weight has no bound
)
WEIGHTINGS = ("none", "cosmap", "sigma_sqrt")


def logit_normal_times(z: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """``t = sigmoid(mean + std z)`` (arXiv:2403.03206): most in the middle; a mean above 0: nearer noise."""
    if not std > 0:
        raise ValueError(f"std of the logit-normal times must be above 0, got {std}")
    return torch.sigmoid(mean + std * z).clamp(MARGIN, 1 - MARGIN)


def uniform_times(u: Tensor) -> Tensor:
    """``t = u``, kept off both ends."""
    return u.clamp(MARGIN, 1 - MARGIN)


def times_of_schedule(schedule: Sequence[float], count: int, generator: torch.Generator) -> Tensor:
    """So many different times of a sampling schedule, each as likely as any other, (count,) float32.

    schedule: times from noise to 0; the last, 0, has nothing to teach and is never taken. Raises ValueError when it
    holds fewer.
    """
    held = torch.tensor(schedule[:-1], dtype=torch.float32)
    if count > len(held):
        raise ValueError(f"times_of_schedule: {count} different times wanted, the schedule has {len(held)}")
    return held[torch.randperm(len(held), generator=generator)[:count]]


def shifted_times(u: Tensor, mu: float) -> Tensor:
    """Uniform times shifted as the sampling schedule is: ``t = 1 / (1 + e^-mu (1 / u - 1))``.

    So training sees the times that sampling visits, as often. mu is `schedule.shift_mu` of the picture's size.
    """
    even = u.clamp(MARGIN, 1 - MARGIN)
    return 1 / (1 + math.exp(-mu) * (1 / even - 1))


def loss_weights(t: Tensor, weighting: str) -> Tensor:
    """The weight (B,) of each sample's loss at its time (arXiv:2403.03206, section 3.1).

    none: 1. cosmap: ``2 / (pi (1 - 2 t + 2 t^2))``, most in the middle. sigma_sqrt: ``t^-2``, most near the picture.
    Raises ValueError when the name is unknown.
    """
    if weighting == "none":
        return torch.ones_like(t)
    if weighting == "cosmap":
        return 2 / (math.pi * (1 - 2 * t + 2 * t.square()))
    if weighting == "sigma_sqrt":
        return t.pow(-2)
    raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {weighting!r}")
