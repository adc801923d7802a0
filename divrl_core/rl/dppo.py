"""Flow-DPPO (arXiv:2606.11025): what goes too far is dropped by its exact divergence, not by the ratio of one draw.

Letters: ``rho`` policy ratio, ``A`` advantage, ``mu`` and ``mu_old`` means of a step now and at the rollout, ``s_t``
its std, ``D`` divergence, ``tau`` threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grpo import PolicyTerm, gaussian_kl, policy_ratio


def dppo_policy_loss(
    lp: Tensor,
    lp_old: Tensor,
    advantages: Tensor,
    *,
    mean: Tensor,
    mean_old: Tensor,
    std: float,
    threshold: float,
) -> PolicyTerm:
    """The policy loss ``-A rho keep``, with ``keep = not (D >= tau and the policy is on its way further out)``.

    ``rho = exp(lp - lp_old)`` and ``D = mean (mu - mu_old)^2 / (2 s_t^2)``, the exact KL of two Gaussians of one std,
    averaged over elements. On its way further out: ``A > 0 and rho > 1``, or ``A < 0 and rho < 1``. A step that goes
    back towards the old policy is kept however far away it is. D decides and has no gradient. On-policy D is 0 and
    everything is kept: with one optimizer step a rollout this is the plain policy gradient, as the clip is.

    Args:
        lp: log-probability (B,) under the policy now, differentiable.
        lp_old: log-probability (B,) at the time of the rollout.
        advantages: (B,), valid samples only; leave invalid ones out before.
        mean: the step's mean (B, N, C) under the policy now; mean_old: at the time of the rollout.
        std: s_t, the step's std, shared by both, above 0.
        threshold: tau, above 0; 1e-5 in the paper.

    Returns:
        The loss by sample, 0 where a sample is dropped; `clipped` says where. Its mean over samples and trained steps
        is the objective.
    """
    if threshold <= 0:
        raise ValueError(f"dppo_policy_loss: threshold must be above 0, got {threshold}")
    if advantages.shape != lp.shape:
        raise ValueError(
            f"dppo_policy_loss: advantages must have lp's shape: expected {tuple(lp.shape)}, "
            f"got {tuple(advantages.shape)}"
        )
    A, rho = advantages.detach(), policy_ratio(lp, lp_old)
    divergence = gaussian_kl(mean.detach(), mean_old, std)
    goes_out = ((A > 0) & (rho > 1)) | ((A < 0) & (rho < 1))
    dropped = (divergence >= threshold) & goes_out
    loss = torch.where(dropped, torch.zeros_like(rho), -A * rho)
    return PolicyTerm(loss=loss, ratio=rho.detach(), clipped=dropped.detach())
