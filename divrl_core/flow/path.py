"""The straight path between picture and noise: the one place where time is defined.

Letters: ``x_0`` clean latent, ``eps`` Gaussian noise, ``x_t`` noisy latent, ``v`` velocity, ``t`` time.
Time runs in [0, 1]; 1 is pure noise and sigma = t:

    x_t = (1 - t) x_0 + t eps        v = d x_t / d t = eps - x_0
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype where that is finer (float64)."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def interpolate(x_0: Tensor, eps: Tensor, t: float | Tensor) -> Tensor:
    """The noisy latent at time t: ``x_t = (1 - t) x_0 + t eps``.

    Args:
        x_0: clean latent (B, ...).
        eps: standard normal noise of the same shape.
        t: time in [0, 1], one number or one per sample (B,).

    Returns:
        x_t, shape of x_0, float32 or better.

    Raises:
        ValueError: shapes that differ, a time outside [0, 1], or times that are not one per sample.
    """
    _check_same_shape("interpolate", x_0, eps, "eps")
    x_0, eps = at_least_float32(x_0), at_least_float32(eps)
    time = _time_like(t, x_0)
    return (1 - time) * x_0 + time * eps


def velocity_target(x_0: Tensor, eps: Tensor) -> Tensor:
    """What the model learns to predict: ``v = eps - x_0`` (float32 or better, shape of x_0)."""
    _check_same_shape("velocity_target", x_0, eps, "eps")
    return at_least_float32(eps) - at_least_float32(x_0)


def clean_from_velocity(x_t: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """The clean latent that a velocity points to: ``x_0 = x_t - t v`` (float32 or better).

    Args:
        x_t: noisy latent (B, ...).
        v: velocity of the same shape.
        t: time in [0, 1], one number or one per sample (B,).
    """
    _check_same_shape("clean_from_velocity", x_t, v, "v")
    x_t, v = at_least_float32(x_t), at_least_float32(v)
    return x_t - _time_like(t, x_t) * v


def noise_from_velocity(x_t: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """The noise that a velocity comes from: ``eps = x_t + (1 - t) v`` (float32 or better).

    Args:
        x_t: noisy latent (B, ...).
        v: velocity of the same shape.
        t: time in [0, 1], one number or one per sample (B,).
    """
    _check_same_shape("noise_from_velocity", x_t, v, "v")
    x_t, v = at_least_float32(x_t), at_least_float32(v)
    return x_t + (1 - _time_like(t, x_t)) * v


def _time_like(t: float | Tensor, latent: Tensor) -> Tensor:
    """The time as a tensor that broadcasts over a latent, in the latent's (at least float32) dtype."""
    time = torch.as_tensor(t, dtype=latent.dtype, device=latent.device)
    if not bool(((time >= 0) & (time <= 1)).all()):
        raise ValueError(
            f"t must lie in [0, 1], where 1 is pure noise; got {t}; divide 0-1000 timesteps by 1000"
        )
    if time.ndim == 0:
        return time
    if time.shape != latent.shape[:1]:
        raise ValueError(
            f"t must be one number or one per sample: expected ({latent.shape[0]},), got {tuple(time.shape)}"
        )
    return time.reshape(-1, *[1] * (latent.ndim - 1))


def _check_same_shape(where: str, first: Tensor, second: Tensor, name: str) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"{where}: {name} must have the latent's shape: expected {tuple(first.shape)}, "
            f"got {tuple(second.shape)}"
        )
