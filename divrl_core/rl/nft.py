"""DiffusionNFT (arXiv:2509.16117): good samples pull the velocity to them, bad ones push it away; no likelihoods.

Letters: ``x_0`` clean latent of a sample, ``x_t`` the same with noise, ``t`` time, ``v`` velocity of the policy,
``v_old`` of the policy that drew the sample, ``A`` advantage, ``a`` its scale, ``r`` how good the sample is in [0, 1],
``b`` how far the implicit policies v+ and v- lie from v_old, ``w`` weight.
"""

from __future__ import annotations

from torch import Tensor

from ..flow.path import at_least_float32, clean_from_velocity

LEAST_WEIGHT = 1e-5


def optimality(advantages: Tensor, a: float) -> Tensor:
    """How good a sample is: ``r = clip(A / (2 a) + 1/2, 0, 1)``, (B,); 1/2 is as good as its group.

    Args:
        advantages: (B,), positive = better than its group.
        a: the advantage from which on r is 1, above 0.
    """
    if a <= 0:
        raise ValueError(f"optimality: a must be above 0, got {a}")
    return (advantages / (2 * a) + 0.5).clamp(0, 1)


def nft_loss(
    v: Tensor, v_old: Tensor, *, x_0: Tensor, x_t: Tensor, t: Tensor | float, r: Tensor, a: float, b: float
) -> Tensor:
    """The policy loss by sample, ``(a / b) mean[r (x0+ - x_0)^2 / w+ + (1 - r) (x0- - x_0)^2 / w-]``.

    With ``v+ = b v + (1 - b) v_old``, ``v- = (1 + b) v_old - b v``, ``x0+- = x_t - t v+-`` and
    ``w+- = mean |x0+- - x_0|``, at least 1e-5, without gradient. At v = v_old the gradient is that of
    ``2 r - 1`` times the pull of v to ``eps - x_0``: none at r = 1/2.

    Args:
        v: the policy's velocity (B, N, C) at x_t, differentiable.
        v_old: the old policy's; no gradient flows into it.
        x_0: clean latents (B, N, C) that the old policy made.
        x_t: ``(1 - t) x_0 + t eps``.
        t: time in [0, 1], one number or one a sample (B,).
        r: (B,), from `optimality`.
        a: scale of the advantages, above 0; b: above 0, small = big steps.

    Returns:
        (B,), float32 or better; lower is better. Invalid samples are the caller's to leave out.
    """
    if not (a > 0 and b > 0):
        raise ValueError(f"nft_loss: a and b must be above 0, got {a} and {b}")
    if not v.shape == v_old.shape == x_0.shape == x_t.shape or r.shape != v.shape[:1]:
        raise ValueError(
            "nft_loss: v, v_old, x_0 and x_t must have one shape (B, N, C) and r (B,): got "
            f"{', '.join(str(tuple(given.shape)) for given in (v, v_old, x_0, x_t, r))}"
        )
    v, v_old, r = at_least_float32(v), at_least_float32(v_old.detach()), r.detach()
    v_plus = b * v + (1 - b) * v_old
    v_minus = (1 + b) * v_old - b * v
    x0_plus = clean_from_velocity(x_t, v_plus, t)
    x0_minus = clean_from_velocity(x_t, v_minus, t)
    return (a / b) * (r * _weighted_error(x0_plus, x_0) + (1 - r) * _weighted_error(x0_minus, x_0))


def old_decay(step: int, *, rate: float, most: float) -> float:
    """The share of the old policy that stays after `step` optimizer steps: ``min(rate step, most)``.

    So ``old <- decay old + (1 - decay) policy``: at first the old policy is the policy, later it lags.
    """
    return min(rate * step, most)


def _weighted_error(x0_hat: Tensor, x_0: Tensor) -> Tensor:
    """``mean (x0_hat - x_0)^2 / w`` by sample, (B,)."""
    error = (x0_hat - at_least_float32(x_0)).flatten(1)
    w = error.detach().abs().mean(dim=1).clamp(min=LEAST_WEIGHT)
    return error.square().mean(dim=1) / w
