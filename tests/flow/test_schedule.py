"""The schedule of sampling times, by hand and against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.flow.schedule import shift_mu, sigmas

LAW = settings(deadline=None, derandomize=True, max_examples=50)


def test_six_steps_at_512_px_are_the_papers():
    # 512 px: 32 x 32 tokens; mu = .5 + (1024 - 256) / 3840 * .65 = .63
    assert shift_mu(1024) == pytest.approx(0.63)
    expected = torch.tensor([1, 0.904, 0.790, 0.653, 0.484, 0.273, 0], dtype=torch.float64)
    torch.testing.assert_close(sigmas(6, shift_mu(1024)), expected, rtol=0, atol=6e-4)


def test_second_of_six_times_worked_by_hand():
    # t = 5/6: e^.63 / (e^.63 + 6/5 - 1) = 1.87761 / 2.07761
    assert sigmas(6, 0.63)[1].item() == pytest.approx(1.87761 / 2.07761, abs=1e-6)


@pytest.mark.parametrize(("token_count", "steps"), [(64, 6), (1024, 6), (1024, 28), (4096, 28), (4096, 1)])
def test_times_equal_diffusers_scheduler(token_count: int, steps: int):
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        shift=3.0,
    )
    mu = calculate_shift(token_count, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    assert shift_mu(token_count) == pytest.approx(mu, abs=1e-12)
    torch.testing.assert_close(
        sigmas(steps, shift_mu(token_count)).float(), scheduler.sigmas, rtol=0, atol=3e-7
    )


@LAW
@given(steps=st.integers(1, 60), mu=st.floats(-2, 3))
def test_times_fall_from_one_to_zero(steps: int, mu: float):
    times = sigmas(steps, mu)
    assert times.dtype == torch.float64
    assert times.shape == (steps + 1,)
    assert times[0].item() == 1.0
    assert times[-1].item() == 0.0
    assert bool((times[1:] < times[:-1]).all())


def test_larger_pictures_stay_longer_near_noise():
    assert bool((sigmas(6, shift_mu(4096))[1:6] > sigmas(6, shift_mu(256))[1:6]).all())


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        sigmas(0, 0.5)
    with pytest.raises(ValueError, match="mu must be a finite number"):
        sigmas(4, float("nan"))
    with pytest.raises(ValueError, match="token_count must be at least 1"):
        shift_mu(0)
    with pytest.raises(ValueError, match="must differ in their token counts"):
        shift_mu(64, base=(256, 0.5), top=(256, 1.15))
