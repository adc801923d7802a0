"""The clipped policy objective and the distances that keep a policy near its reference.

Letters: ``r`` policy ratio, ``A`` advantage, ``c`` clip range. Everything is computed in float32 or better;
log-probabilities that come in a half precision are refused, since what the ratio measures is lost there
already.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyTerm:
    """The policy loss of one step, by sample (each (B,)); lower loss is better.

    loss: differentiable. ratio: detached, exactly 1 before the first update. clipped: True where the clip
    took the gradient away.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def policy_ratio(lp: Tensor, lp_old: Tensor) -> Tensor:
    """How much likelier the step is now than when it was drawn: ``r = exp(lp - lp_old)``, (B,).

    Args:
        lp: log-probability (B,) under the policy now, differentiable, float32 or better.
        lp_old: log-probability (B,) at the time of the rollout; no gradient flows into it.
    """
    if lp.shape != lp_old.shape:
        raise ValueError(
            f"policy_ratio: lp_old must have lp's shape: expected {tuple(lp.shape)}, "
            f"got {tuple(lp_old.shape)}"
        )
    for name, value in (("lp", lp), ("lp_old", lp_old)):
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"policy_ratio: {name} must be float32 or float64, got {value.dtype}")
    return torch.exp(lp - lp_old.detach())


def clipped_policy_loss(lp: Tensor, lp_old: Tensor, advantages: Tensor, *, clip_range: float) -> PolicyTerm:
    """The clipped objective as a loss: ``-min(r A, clip(r, 1 - c, 1 + c) A)`` (arXiv:2606.23950, eq. 2).

    Args:
        lp: log-probability (B,) under the policy now.
        lp_old: log-probability (B,) at the time of the rollout.
        advantages: (B,), valid samples only; leave invalid ones out before.
        clip_range: c, above 0; 1e-4 suits log-probabilities averaged over elements.

    Returns:
        The loss by sample with its parts; the mean over samples and trained steps is the objective.
    """
    if clip_range <= 0:
        raise ValueError(f"clip_range must be above 0, got {clip_range}")
    if advantages.shape != lp.shape:
        raise ValueError(
            f"clipped_policy_loss: advantages must have lp's shape: expected {tuple(lp.shape)}, "
            f"got {tuple(advantages.shape)}"
        )
    ratio = policy_ratio(lp, lp_old)
    advantages = advantages.detach()
    free = ratio * advantages
    held = ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    return PolicyTerm(loss=-torch.minimum(free, held), ratio=ratio.detach(), clipped=(held < free).detach())


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: float) -> Tensor:
    """KL of a step from the reference policy's: ``|mean - mean_ref|^2 / (2 std^2)``, averaged over elements.

    With Flow-SDE, std^2 is ``s^2 |dt|``.

    Args:
        mean: step mean (B, N, C) under the policy, differentiable.
        mean_ref: step mean of the reference policy from the same latent; no gradient flows into it.
        std: the step's std, shared by both, above 0.

    Returns:
        (B,), at least 0, float32 or better; lower is closer.
    """
    if std <= 0:
        raise ValueError(f"gaussian_kl needs a stochastic step: expected std > 0, got {std}")
    return _mean_squared_difference("gaussian_kl", mean, mean_ref) / (2 * std**2)


def velocity_kl(v: Tensor, v_ref: Tensor) -> Tensor:
    """Distance of the policy's velocity from the reference's: mean ``|v - v_ref|^2`` by sample, (B,)."""
    return _mean_squared_difference("velocity_kl", v, v_ref)


def _mean_squared_difference(where: str, value: Tensor, reference: Tensor) -> Tensor:
    if value.shape != reference.shape:
        raise ValueError(
            f"{where}: both policies must give one shape: expected {tuple(value.shape)}, "
            f"got {tuple(reference.shape)}"
        )
    dtype = torch.promote_types(value.dtype, torch.float32)
    return (value.to(dtype) - reference.detach().to(dtype)).square().flatten(1).mean(dim=1)
