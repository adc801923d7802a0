"""The time convention: one path, and every way back along it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.flow.path import clean_from_velocity, interpolate, noise_from_velocity, velocity_target

LAW = settings(deadline=None, derandomize=True, max_examples=50)


def _pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(2))


def test_time_one_is_pure_noise_and_time_zero_is_the_picture():
    x_0, eps = _pair(0)
    assert torch.equal(interpolate(x_0, eps, 1.0), eps)
    assert torch.equal(interpolate(x_0, eps, 0.0), x_0)


def test_one_number_worked_by_hand():
    x_0, eps = torch.tensor([[2.0]]), torch.tensor([[-4.0]])
    # t = .25: x_t = .75 * 2 + .25 * -4 = .5; v = -4 - 2 = -6; x_0 = .5 - .25 * -6 = 2; eps = .5 + .75 * -6 = -4
    x_t = interpolate(x_0, eps, 0.25)
    assert x_t.item() == 0.5
    assert velocity_target(x_0, eps).item() == -6.0
    assert clean_from_velocity(x_t, torch.tensor([[-6.0]]), 0.25).item() == 2.0
    assert noise_from_velocity(x_t, torch.tensor([[-6.0]]), 0.25).item() == -4.0


@LAW
@given(seed=st.integers(0, 1000), t=st.floats(0, 1))
def test_velocity_leads_back_to_picture_and_noise(seed: int, t: float):
    x_0, eps = _pair(seed)
    x_t, v = interpolate(x_0, eps, t), velocity_target(x_0, eps)
    torch.testing.assert_close(clean_from_velocity(x_t, v, t), x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(noise_from_velocity(x_t, v, t), eps, rtol=0, atol=1e-12)


def test_velocity_is_the_derivative_of_the_path():
    x_0, eps = _pair(1)
    slope = (interpolate(x_0, eps, 0.6) - interpolate(x_0, eps, 0.4)) / 0.2
    torch.testing.assert_close(slope, velocity_target(x_0, eps))


def test_one_time_a_sample_equals_each_sample_alone():
    x_0, eps = _pair(2)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = interpolate(x_0, eps, times)
    for index, t in enumerate(times.tolist()):
        assert torch.equal(together[index], interpolate(x_0[index : index + 1], eps[index : index + 1], t)[0])


def test_half_precision_latents_are_computed_in_float32():
    x_0, eps = (tensor.to(torch.bfloat16) for tensor in _pair(3))
    x_t = interpolate(x_0, eps, 0.3)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t, interpolate(x_0.float(), eps.float(), 0.3), rtol=0, atol=0)


@pytest.mark.parametrize("t", [-0.1, 1.5, 500.0, float("nan")])
def test_times_outside_the_unit_interval_are_refused(t: float):
    x_0, eps = _pair(4)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        interpolate(x_0, eps, t)


def test_shapes_that_differ_are_refused():
    x_0, eps = _pair(5)
    with pytest.raises(ValueError, match=r"expected \(3, 5, 4\), got \(3, 4, 4\)"):
        interpolate(x_0, eps[:, :4], 0.5)
    with pytest.raises(ValueError, match=r"one per sample: expected \(3,\), got \(2,\)"):
        interpolate(x_0, eps, torch.tensor([0.5, 0.5]))
