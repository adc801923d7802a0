"""Times to train at, and their weights."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from divrl_core.flow.schedule import sigmas
from divrl_core.flow.times import logit_normal_times, loss_weights, shifted_times, uniform_times


def test_logit_normal_times_are_diffusers_own() -> None:
    z = torch.randn(64, generator=torch.Generator().manual_seed(3))
    theirs = compute_density_for_timestep_sampling(
        "logit_normal", 64, logit_mean=0.4, logit_std=1.2, generator=torch.Generator().manual_seed(3)
    )
    assert torch.allclose(
        logit_normal_times(z * 1.0, mean=0.4, std=1.2), theirs.clamp(1e-3, 1 - 1e-3), atol=1e-6
    )


def test_logit_normal_times_by_hand() -> None:
    assert logit_normal_times(torch.zeros(1)).item() == 0.5
    assert math.isclose(
        logit_normal_times(torch.tensor([1.0]), mean=1, std=2).item(), 1 / (1 + math.exp(-3)), rel_tol=1e-6
    )
    with pytest.raises(ValueError, match="above 0"):
        logit_normal_times(torch.zeros(1), std=0)


def test_shifted_times_are_those_of_the_sampling_schedule() -> None:
    even = torch.linspace(1, 1 / 28, 28, dtype=torch.float64)[1:]
    assert torch.allclose(shifted_times(even, 0.63), sigmas(28, 0.63)[1:-1], atol=1e-12)
    assert torch.allclose(shifted_times(even, 0.0), even, atol=1e-12)


@pytest.mark.parametrize(
    "times", [uniform_times(torch.tensor([0.0, 1.0])), shifted_times(torch.tensor([0.0, 1.0]), 1.15)]
)
def test_times_stay_off_both_ends(times: torch.Tensor) -> None:
    assert 0 < times.min() < times.max() < 1


@pytest.mark.parametrize("weighting", ["none", "cosmap", "sigma_sqrt"])
def test_weights_are_diffusers_own(weighting: str) -> None:
    t = torch.linspace(0.05, 0.95, 19)
    assert torch.allclose(loss_weights(t, weighting), compute_loss_weighting_for_sd3(weighting, t), rtol=1e-6)


def test_an_unknown_weighting_is_named() -> None:
    with pytest.raises(ValueError, match="one of none, cosmap, sigma_sqrt, got 'cosmos'"):
        loss_weights(torch.tensor([0.5]), "cosmos")
