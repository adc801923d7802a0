"""From measures to rewards: the gate, suppress, and the paper's linear weights.

Everywhere: higher is better, shapes (B,), and NaN is "undefined": a reward that needs an undefined part is
undefined too, never 0. Parts that were not measured are NaN; they do not touch a total that does not need
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reward:
    """A reward with its parts, each (B,); gap is 0 where the gate is passed (see `gate_gap`).

    more: other measures by name, those that the total needs and those that were asked for beside it.
    """

    total: Tensor
    nssm: Tensor
    vsm: Tensor
    gap: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)


def passes(nssm: Tensor, vsm: Tensor, *, gate: float) -> Tensor:
    """Bool (B,): whether the gate lets a picture through: ``VSM >= s``, and both measures are defined."""
    return (vsm >= gate) & ~nssm.isnan()  # False where VSM is NaN


def gate_gap(measures: Mapping[str, Tensor], gates: Mapping[str, float]) -> Tensor:
    """How far a picture stays below its gates: ``sqrt(sum over gates of max(0, s - m)^2)``, (B,), 0 = all passed.

    With VSM alone it is eq. 9's ``max(0, s - VSM)`` (arXiv:2606.23950). NaN where a measure is undefined.

    Args:
        measures: by name, each (B,), higher is better.
        gates: the least value of each measure that goes unpunished; at least one.
    """
    if not gates:
        raise ValueError("gate_gap needs at least one gate")
    below = [(least - measures[name]).clamp_min(0) for name, least in gates.items()]
    return below[0] if len(below) == 1 else torch.stack(below).square().sum(dim=0).sqrt()


def gated_total(structure: Tensor, gap: Tensor, *, penalty_weight: float) -> Tensor:
    """``structure - lambda gap^2``: eq. 9 (arXiv:2606.23950) for any structure and gates, (B,)."""
    _check_same_length(structure, gap)
    if penalty_weight < 0:
        raise ValueError(f"penalty_weight must be at least 0, got {penalty_weight}")
    return structure - penalty_weight * gap.square()


def suppress_reward(nssm: Tensor, vsm: Tensor, *, gate: float, penalty_weight: float) -> Reward:
    """Stage 2: ``R2 = nSSM if VSM >= s, else nSSM - lambda (s - VSM)^2`` (arXiv:2606.23950, eq. 9).

    Args:
        nssm: structural difference (B,), NaN = undefined.
        vsm: identity (B,), NaN = undefined.
        gate: s, the least VSM that goes unpunished.
        penalty_weight: lambda, reward units per squared VSM, at least 0.
    """
    _check_same_length(nssm, vsm)
    gap = gate_gap({"vsm": vsm}, {"vsm": gate})
    return Reward(gated_total(nssm, gap, penalty_weight=penalty_weight), nssm, vsm, gap)


def linear_total(structure: Tensor, vsm: Tensor, *, vsm_weight: float) -> Tensor:
    """The paper's comparison: ``w VSM + (1 - w) structure`` with w in [0, 1], (B,)."""
    _check_same_length(structure, vsm)
    if not 0 <= vsm_weight <= 1:
        raise ValueError(f"vsm_weight must lie in [0, 1], got {vsm_weight}")
    return vsm_weight * vsm + (1 - vsm_weight) * structure


def _check_same_length(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"both measures must score the same samples: got shapes {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
