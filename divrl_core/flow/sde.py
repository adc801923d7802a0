"""One sampling step: where it goes, how it is drawn, and how likely it was.

Letters: ``x`` noisy latent (B, N, C), ``v`` velocity, ``t`` time now, ``t'`` the next time (smaller), ``a``
noise level, ``z`` standard normal noise. The ratio law: the step is rounded to its storage dtype by `draw`
first, and every log-probability, in rollout and in training, is computed in float32 or better from that
rounded value; with the same velocity the policy ratio is then exactly 1. Which steps are stochastic is the
caller's choice; the last one should be an `ode_step`, or the picture keeps noise in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .path import at_least_float32, clean_from_velocity, noise_from_velocity


@dataclass(frozen=True)
class Gaussian:
    """The distribution of a step's outcome: a mean (B, N, C), float32 or better, and one std for all."""

    mean: Tensor
    std: float


class StepGaussian(Protocol):
    """A stochastic solver's step: from latent, velocity and times to the distribution of the next latent."""

    def __call__(
        self, x_t: Tensor, v: Tensor, t: float, t_next: float, *, noise_level: float, t_second: float
    ) -> Gaussian: ...


class StepLogProb(Protocol):
    """A solver's log-probability of a drawn step, one number a sample (B,)."""

    def __call__(self, x_next: Tensor, gaussian: Gaussian) -> Tensor: ...


class Solver(NamedTuple):
    """A stochastic solver: the step's distribution and the log-probability that goes with it."""

    gaussian: StepGaussian
    log_prob: StepLogProb


def flow_sde_gaussian(
    x_t: Tensor, v: Tensor, t: float, t_next: float, *, noise_level: float, t_second: float
) -> Gaussian:
    """Flow-SDE step (Flow-GRPO, arXiv:2505.05470): the ODE's marginals, reached with noise.

    With dt = t' - t < 0 and ``s = a sqrt(t / (1 - t))``, where 1 - t becomes ``1 - t_second`` at t = 1:
    ``mean = x (1 + s^2/(2t) dt) + v (1 + s^2 (1 - t)/(2t)) dt`` and ``std = s sqrt(-dt)``.

    Args:
        x_t: noisy latent (B, N, C), any float dtype.
        v: velocity of the same shape.
        t: time now, in (0, 1].
        t_next: next time, in [0, t).
        noise_level: a, at least 0; 0 is the plain ODE step.
        t_second: the schedule's second value, used only at t = 1, in (0, 1).

    Returns:
        The step's distribution, in float32 or better.
    """
    _check_step("flow_sde_gaussian", x_t, v, t, t_next)
    if noise_level < 0:
        raise ValueError(f"noise_level of flow_sde must be at least 0, got {noise_level}")
    is_start = t > 1 - 1e-6
    if is_start and not 0 < t_second < 1:
        raise ValueError(
            f"t_second must lie in (0, 1) at t = 1, got {t_second}; pass the schedule's second value"
        )
    x_t, v = at_least_float32(x_t), at_least_float32(v)
    dt = t_next - t
    s = noise_level * math.sqrt(t / (1 - (t_second if is_start else t)))
    drift = s * s / (2 * t)
    mean = x_t * (1 + drift * dt) + v * ((1 + drift * (1 - t)) * dt)
    return Gaussian(mean, s * math.sqrt(-dt))


def cps_gaussian(
    x_t: Tensor, v: Tensor, t: float, t_next: float, *, noise_level: float, t_second: float | None = None
) -> Gaussian:
    """Coefficients-preserving step: part of the noise is exchanged and its total level stays exact.

    ``s = t' sin(a pi/2)``; ``mean = x0_hat (1 - t') + x1_hat sqrt(t'^2 - s^2)``; ``std = s``, where x0_hat
    and x1_hat are the clean latent and the noise that the velocity implies.

    Args:
        x_t: noisy latent (B, N, C), any float dtype.
        v: velocity of the same shape.
        t: time now, in (0, 1].
        t_next: next time, in [0, t).
        noise_level: a, in [0, 1]; 0 is the plain ODE step, 1 exchanges all of the noise.
        t_second: not needed here; taken so that every solver is called alike.

    Returns:
        The step's distribution, in float32 or better. Its log-probability is `cps_log_prob`.
    """
    _check_step("cps_gaussian", x_t, v, t, t_next)
    if not 0 <= noise_level <= 1:
        raise ValueError(f"noise_level of cps must lie in [0, 1], got {noise_level}")
    angle = noise_level * math.pi / 2
    x0_hat, x1_hat = clean_from_velocity(x_t, v, t), noise_from_velocity(x_t, v, t)
    mean = x0_hat * (1 - t_next) + x1_hat * (t_next * math.cos(angle))
    return Gaussian(mean, t_next * math.sin(angle))


def ode_step(x_t: Tensor, v: Tensor, t: float, t_next: float) -> Tensor:
    """The deterministic Euler step ``x' = x + v (t' - t)``, float32 or better; the caller rounds it."""
    _check_step("ode_step", x_t, v, t, t_next)
    return at_least_float32(x_t) + at_least_float32(v) * (t_next - t)


def draw(gaussian: Gaussian, z: Tensor, dtype: torch.dtype) -> Tensor:
    """A sample ``x' = mean + std z``, rounded to the dtype in which it is stored.

    Args:
        gaussian: distribution of the step.
        z: standard normal noise of the mean's shape, from `keyed_noise`.
        dtype: storage dtype of the latents; the log-probability is taken from the rounded value.
    """
    if z.shape != gaussian.mean.shape:
        raise ValueError(
            f"draw: z must have the mean's shape: expected {tuple(gaussian.mean.shape)}, got {tuple(z.shape)}"
        )
    return (gaussian.mean + gaussian.std * z.to(gaussian.mean)).to(dtype)


def log_prob(x_next: Tensor, gaussian: Gaussian) -> Tensor:
    """Log-density of a drawn step under a Gaussian, **averaged** over all latent elements.

    ``mean over elements of -(x' - mean)^2 / (2 std^2) - log(std) - log(2 pi)/2``. The average, not the sum,
    is why clip ranges are 1e-4 or 1e-5.

    Args:
        x_next: the step as stored, (B, N, C), any float dtype.
        gaussian: the distribution it is measured against.

    Returns:
        (B,), float32 or better; higher is likelier. Differentiable in the mean.

    Raises:
        ValueError: a std of 0: a deterministic step has no density and cannot be trained.
    """
    if gaussian.std <= 0:
        raise ValueError(
            f"log_prob needs a stochastic step: expected std > 0, got {gaussian.std}; "
            "leave deterministic steps out"
        )
    constant = math.log(gaussian.std) + 0.5 * math.log(2 * math.pi)
    return -_mean_squared_deviation(x_next, gaussian) / (2 * gaussian.std**2) - constant


def cps_log_prob(x_next: Tensor, gaussian: Gaussian) -> Tensor:
    """Log-probability as CPS takes it, ``-mean((x' - mean)^2)``, (B,), float32 or better.

    It lacks the division by 2 std^2, so its clip range is of another scale than Flow-SDE's.
    """
    return -_mean_squared_deviation(x_next, gaussian)


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "flow_sde": Solver(flow_sde_gaussian, log_prob),
        "cps": Solver(cps_gaussian, cps_log_prob),
    }
)


def _mean_squared_deviation(x_next: Tensor, gaussian: Gaussian) -> Tensor:
    if x_next.shape != gaussian.mean.shape:
        raise ValueError(
            f"log_prob: x' must have the mean's shape: expected {tuple(gaussian.mean.shape)}, "
            f"got {tuple(x_next.shape)}"
        )
    return (at_least_float32(x_next) - gaussian.mean).square().flatten(1).mean(dim=1)


def _check_step(where: str, x_t: Tensor, v: Tensor, t: float, t_next: float) -> None:
    if x_t.shape != v.shape:
        raise ValueError(
            f"{where}: velocity must have the latent's shape: expected {tuple(x_t.shape)}, "
            f"got {tuple(v.shape)}; keep only the target part of the prediction"
        )
    if not 0 <= t_next < t <= 1:
        raise ValueError(f"{where}: times must fall within [0, 1]: got t = {t}, t_next = {t_next}")
