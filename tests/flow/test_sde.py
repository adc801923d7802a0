"""Stochastic steps: by hand, their marginals, and the ratio law."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.flow.path import interpolate, velocity_target
from divrl_core.flow.schedule import shift_mu, sigmas
from divrl_core.flow.sde import (
    SOLVERS,
    Gaussian,
    cps_gaussian,
    cps_log_prob,
    draw,
    flow_sde_gaussian,
    log_prob,
    ode_step,
)

LAW = settings(deadline=None, derandomize=True, max_examples=50)

TIMES = sigmas(6, shift_mu(1024)).tolist()


def _scalar(value: float) -> torch.Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_flow_sde_step_worked_by_hand():
    # t = .8, t' = .5, a = .5: s^2 = .25 * .8 / .2 = 1, dt = -.3
    # mean = 2 (1 + 1/1.6 * -.3) + -1 (1 + .2/1.6) * -.3 = 2 * .8125 + .3375 = 1.9625; std = sqrt(.3)
    gaussian = flow_sde_gaussian(_scalar(2), _scalar(-1), 0.8, 0.5, noise_level=0.5, t_second=0.9)
    assert gaussian.mean.item() == pytest.approx(1.9625, abs=1e-12)
    assert gaussian.std == pytest.approx(math.sqrt(0.3), abs=1e-12)


def test_flow_sde_first_step_takes_the_second_time_for_its_noise_only():
    # t = 1, t' = .9, t_second = .9, a = .5: s^2 = .25 * 1 / (1 - .9) = 2.5, dt = -.1
    # mean = 2 (1 + 2.5/2 * -.1) + -1 (1 + 0) * -.1 = 1.75 + .1 = 1.85; std = sqrt(2.5 * .1) = .5
    gaussian = flow_sde_gaussian(_scalar(2), _scalar(-1), 1.0, 0.9, noise_level=0.5, t_second=0.9)
    assert gaussian.mean.item() == pytest.approx(1.85, abs=1e-12)
    assert gaussian.std == pytest.approx(0.5, abs=1e-12)


def test_cps_step_worked_by_hand():
    # t = .8, x = 2, v = -1: x0 = 2.8, x1 = 1.8; t' = .5, a = 1/3: s = .5 sin 30 = .25
    # mean = 2.8 * .5 + 1.8 sqrt(.25 - .0625) = 1.4 + 1.8 * .4330127
    gaussian = cps_gaussian(_scalar(2), _scalar(-1), 0.8, 0.5, noise_level=1 / 3)
    assert gaussian.mean.item() == pytest.approx(1.4 + 1.8 * 0.4330127, abs=1e-6)
    assert gaussian.std == pytest.approx(0.25, abs=1e-12)


def test_ode_step_with_a_perfect_velocity_follows_the_path():
    x_0, eps = _normal(2, 8, 4, seed=1), _normal(2, 8, 4, seed=2)
    after = ode_step(interpolate(x_0, eps, 0.8), velocity_target(x_0, eps), 0.8, 0.3)
    torch.testing.assert_close(after, interpolate(x_0, eps, 0.3))


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@LAW
@given(t=st.floats(0.05, 1), share=st.floats(0, 0.95))
def test_without_noise_a_solver_is_the_ode(solver: str, t: float, share: float):
    x_t, v = _normal(1, 3, 2, seed=3), _normal(1, 3, 2, seed=4)
    gaussian = SOLVERS[solver].gaussian(x_t, v, t, share * t, noise_level=0.0, t_second=0.9)
    assert gaussian.std == 0.0
    torch.testing.assert_close(gaussian.mean, ode_step(x_t, v, t, share * t), rtol=0, atol=1e-12)


def _final_deviation(solver: str, noise_level: float, *, last_is_deterministic: bool) -> float:
    """Spread of the final latent around x_0 = 0 when the velocity is that of a single picture: v = x / t."""
    x, times = _normal(1, 40_000, 1, seed=5), TIMES
    for step, (t, t_next) in enumerate(pairwise(times)):
        v = x / t
        if last_is_deterministic and t_next == 0:
            x = ode_step(x, v, t, t_next)
        else:
            gaussian = SOLVERS[solver].gaussian(x, v, t, t_next, noise_level=noise_level, t_second=times[1])
            x = draw(gaussian, _normal(*x.shape, seed=100 + step), torch.float64)
    return x.std().item()


def test_six_noisy_steps_leave_noise_that_a_deterministic_last_step_removes():
    assert _final_deviation("flow_sde", 0.9, last_is_deterministic=False) == pytest.approx(0.37, abs=0.01)
    assert _final_deviation("flow_sde", 0.9, last_is_deterministic=True) == pytest.approx(0, abs=1e-9)


def test_cps_keeps_the_noise_level_exact_at_every_step():
    x_0 = 3.0
    x = x_0 * (1 - TIMES[0]) + TIMES[0] * _normal(1, 200_000, 1, seed=6)
    for step, (t, t_next) in enumerate(pairwise(TIMES[:-1])):
        gaussian = cps_gaussian(x, (x - x_0) / t, t, t_next, noise_level=0.8)
        x = draw(gaussian, _normal(*x.shape, seed=200 + step), torch.float64)
        assert x.std().item() == pytest.approx(t_next, rel=0.01)
        assert x.mean().item() == pytest.approx(x_0 * (1 - t_next), abs=0.01)


def test_flow_sde_keeps_the_marginal_of_a_perfect_velocity():
    # Data N(0, .5^2): x_t ~ N(0, (1-t)^2 .25 + t^2), velocity E[eps - x_0 | x_t] = (t - .25 (1-t)) / var x.
    # Many small steps from t = .8 to .3 must keep the variance that the path has there.
    steps, data_variance = 200, 0.25
    times = torch.linspace(0.8, 0.3, steps + 1, dtype=torch.float64).tolist()

    def variance(t: float) -> float:
        return (1 - t) ** 2 * data_variance + t**2

    x = _normal(1, 100_000, 1, seed=7) * math.sqrt(variance(0.8))
    for step, (t, t_next) in enumerate(pairwise(times)):
        v = x * (t - data_variance * (1 - t)) / variance(t)
        gaussian = flow_sde_gaussian(x, v, t, t_next, noise_level=0.7, t_second=0.9)
        x = draw(gaussian, _normal(*x.shape, seed=300 + step), torch.float64)
    assert x.var().item() == pytest.approx(variance(0.3), rel=0.03)


def test_log_prob_equals_torchs_normal_averaged_over_elements():
    gaussian = Gaussian(_normal(3, 8, 4, seed=8), 0.37)
    x_next = gaussian.mean + 0.37 * _normal(3, 8, 4, seed=9)
    expected = torch.distributions.Normal(gaussian.mean, 0.37).log_prob(x_next).mean(dim=(1, 2))
    torch.testing.assert_close(log_prob(x_next, gaussian), expected)


def test_log_prob_does_not_grow_with_the_picture():
    small, large = Gaussian(torch.zeros(1, 4, 2), 0.5), Gaussian(torch.zeros(1, 400, 2), 0.5)
    torch.testing.assert_close(
        log_prob(torch.full((1, 4, 2), 0.3), small), log_prob(torch.full((1, 400, 2), 0.3), large)
    )


def test_cps_log_prob_is_minus_the_mean_squared_deviation():
    gaussian = Gaussian(torch.zeros(1, 2, 1), 0.25)
    # -((.3)^2 + (.1)^2) / 2 = -.05
    assert cps_log_prob(torch.tensor([[[0.3], [-0.1]]]), gaussian).item() == pytest.approx(-0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_ratio_is_exactly_one_when_nothing_has_changed(solver: str, dtype: torch.dtype):
    x_t = _normal(21, 64, 16, seed=10).to(dtype)
    for step in range(5):
        v = _normal(21, 64, 16, seed=11 + step).to(dtype)
        times = {"t": TIMES[step], "t_next": TIMES[step + 1], "noise_level": 0.8, "t_second": TIMES[1]}
        rollout = SOLVERS[solver].gaussian(x_t, v, **times)
        x_next = draw(rollout, _normal(21, 64, 16, seed=50 + step), dtype)
        assert x_next.dtype == dtype
        old = SOLVERS[solver].log_prob(x_next, rollout)
        new = SOLVERS[solver].log_prob(x_next, SOLVERS[solver].gaussian(x_t, v, **times))
        assert torch.equal(torch.exp(new - old), torch.ones(21))
        x_t = x_next


def test_bfloat16_log_prob_before_rounding_would_break_the_ratio_law():
    """Why draw() rounds first: the same probability taken before rounding moves ratios out of the clip range."""
    x_t, v = (_normal(21, 1024, 16, seed=seed).to(torch.bfloat16) for seed in (12, 13))
    gaussian = flow_sde_gaussian(x_t, v, TIMES[4], TIMES[5], noise_level=0.8, t_second=TIMES[1])
    z = _normal(*x_t.shape, seed=14)
    unrounded, stored = draw(gaussian, z, torch.float32), draw(gaussian, z, torch.bfloat16)
    ratio = torch.exp(log_prob(stored, gaussian) - log_prob(unrounded, gaussian))
    assert (ratio - 1).abs().max().item() > 1e-5


def test_half_precision_inputs_give_float32_distributions_and_log_probs():
    x_t, v = (_normal(2, 4, 3, seed=seed).to(torch.bfloat16) for seed in (15, 16))
    for solver in SOLVERS.values():
        gaussian = solver.gaussian(x_t, v, 0.8, 0.5, noise_level=0.7, t_second=0.9)
        exact = solver.gaussian(x_t.double(), v.double(), 0.8, 0.5, noise_level=0.7, t_second=0.9)
        assert gaussian.mean.dtype == torch.float32
        torch.testing.assert_close(gaussian.mean.double(), exact.mean, rtol=1e-5, atol=1e-6)
        assert solver.log_prob(x_t, gaussian).dtype == torch.float32


def test_raising_the_log_prob_moves_the_mean_towards_the_sample():
    v = torch.zeros(1, 4, 2, requires_grad=True)
    gaussian = flow_sde_gaussian(torch.zeros(1, 4, 2), v, 0.8, 0.5, noise_level=0.7, t_second=0.9)
    log_prob(torch.ones(1, 4, 2), gaussian).sum().backward()
    # The mean is v times a negative number (dt < 0): a mean nearer to 1 needs a smaller velocity.
    assert bool((v.grad < 0).all())


def test_steps_that_cannot_be_are_refused():
    x = torch.zeros(1, 4, 2)
    with pytest.raises(ValueError, match=r"times must fall within \[0, 1\]: got t = 0.3, t_next = 0.5"):
        ode_step(x, x, 0.3, 0.5)
    with pytest.raises(ValueError, match="noise_level of flow_sde must be at least 0"):
        flow_sde_gaussian(x, x, 0.5, 0.3, noise_level=-0.1, t_second=0.9)
    with pytest.raises(ValueError, match=r"t_second must lie in \(0, 1\) at t = 1"):
        flow_sde_gaussian(x, x, 1.0, 0.9, noise_level=0.7, t_second=1.0)
    with pytest.raises(ValueError, match=r"noise_level of cps must lie in \[0, 1\]"):
        cps_gaussian(x, x, 0.5, 0.3, noise_level=1.2)
    with pytest.raises(ValueError, match="keep only the target part"):
        ode_step(x, torch.zeros(1, 8, 2), 0.5, 0.3)
    with pytest.raises(ValueError, match="expected std > 0"):
        log_prob(x, Gaussian(x, 0.0))
    with pytest.raises(ValueError, match="z must have the mean's shape"):
        draw(Gaussian(x, 0.1), torch.zeros(1, 4, 1), torch.float32)
