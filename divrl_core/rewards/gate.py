"""From measures to rewards: explore, suppress, and the paper's comparisons.

Everywhere: higher is better, shapes (B,), and NaN is "undefined": a reward that needs an undefined part is
undefined too, never 0. Parts that were not measured are NaN; they do not touch a total that does not need
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reward:
    """A reward with its parts, each (B,); gap = max(0, s - vsm) is 0 where the gate is passed."""

    total: Tensor
    nssm: Tensor
    vsm: Tensor
    gap: Tensor


def passes(nssm: Tensor, vsm: Tensor, *, gate: float) -> Tensor:
    """Bool (B,): whether the gate lets a picture through: ``VSM >= s``, and both measures are defined."""
    return (vsm >= gate) & ~nssm.isnan()  # False where VSM is NaN


def explore_reward(nssm: Tensor, vsm: Tensor | None = None, *, gate: float | None = None) -> Reward:
    """Stage 1: ``R1 = nSSM`` (arXiv:2606.23950, eq. 8); vsm and the gate s are only reported."""
    vsm = _measured_or_nan(vsm, nssm)
    return Reward(nssm, nssm, vsm, _gap(vsm, gate))


def suppress_reward(nssm: Tensor, vsm: Tensor, *, gate: float, penalty_weight: float) -> Reward:
    """Stage 2: ``R2 = nSSM if VSM >= s, else nSSM - lambda (s - VSM)^2`` (arXiv:2606.23950, eq. 9).

    Args:
        nssm: structural difference (B,), NaN = undefined.
        vsm: identity (B,), NaN = undefined.
        gate: s, the least VSM that goes unpunished.
        penalty_weight: lambda, reward units per squared VSM, at least 0.
    """
    _check_same_length(nssm, vsm)
    if penalty_weight < 0:
        raise ValueError(f"penalty_weight must be at least 0, got {penalty_weight}")
    gap = _gap(vsm, gate)
    return Reward(nssm - penalty_weight * gap.square(), nssm, vsm, gap)


def linear_reward(nssm: Tensor, vsm: Tensor, *, vsm_weight: float, gate: float | None = None) -> Reward:
    """The paper's comparison: ``R = w VSM + (1 - w) nSSM`` with w in [0, 1]; the gate s is only reported."""
    _check_same_length(nssm, vsm)
    if not 0 <= vsm_weight <= 1:
        raise ValueError(f"vsm_weight must lie in [0, 1], got {vsm_weight}")
    return Reward(vsm_weight * vsm + (1 - vsm_weight) * nssm, nssm, vsm, _gap(vsm, gate))


def vsm_reward(vsm: Tensor, nssm: Tensor | None = None, *, gate: float | None = None) -> Reward:
    """The paper's comparison with identity alone: ``R = VSM``. nssm and the gate s are only reported."""
    return Reward(vsm, _measured_or_nan(nssm, vsm), vsm, _gap(vsm, gate))


def _gap(vsm: Tensor, gate: float | None) -> Tensor:
    """``max(0, s - VSM)``; NaN where VSM or the gate is unknown."""
    return torch.full_like(vsm, torch.nan) if gate is None else (gate - vsm).clamp_min(0)


def _measured_or_nan(part: Tensor | None, like: Tensor) -> Tensor:
    if part is None:
        return torch.full_like(like, torch.nan)
    _check_same_length(part, like)
    return part


def _check_same_length(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"nssm and vsm must score the same samples: got shapes {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
