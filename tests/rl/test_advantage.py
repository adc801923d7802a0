"""Advantages: eq. 1 by hand, its laws, and samples that do not count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rl.advantage import group_advantages

LAW = settings(deadline=None, derandomize=True, max_examples=60)
NAN = float("nan")


def test_two_groups_worked_by_hand():
    # Group 0: 1, 3 -> mean 2, population std 1 -> -1, 1. Group 1: 0, 0, 3 -> mean 1, std sqrt 2.
    result = group_advantages(torch.tensor([1.0, 0.0, 3.0, 0.0, 3.0]), torch.tensor([0, 1, 0, 1, 1]))
    expected = torch.tensor([-1.0, -1 / 2**0.5, 1.0, -1 / 2**0.5, 2 / 2**0.5])
    torch.testing.assert_close(result.values, expected)
    torch.testing.assert_close(result.group_std, torch.tensor([1.0, 2**0.5]))
    assert result.valid.all()
    assert not result.flat_groups.any()


def test_invalid_samples_are_left_out_of_the_statistics():
    # Without the NaN the group is 1, 3; counted as 0 it would have mean 4/3.
    result = group_advantages(torch.tensor([1.0, NAN, 3.0]), torch.tensor([0, 0, 0]))
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 0.0, 1.0]))
    assert result.valid.tolist() == [True, False, True]


@pytest.mark.parametrize("std_over", ["group", "batch"])
def test_invalid_samples_change_nothing_for_the_others(std_over: str):
    rewards, groups = torch.tensor([1.0, 2.0, 4.0, 8.0, 7.0]), torch.tensor([0, 0, 0, 1, 1])
    alone = group_advantages(rewards, groups, std_over=std_over)
    mixed = group_advantages(
        torch.cat([rewards, torch.tensor([NAN, float("inf")])]),
        torch.cat([groups, torch.tensor([0, 1])]),
        std_over=std_over,
    )
    assert torch.equal(mixed.values[:5], alone.values)
    assert torch.equal(mixed.group_std, alone.group_std)
    assert mixed.valid.tolist() == [True] * 5 + [False] * 2


@pytest.mark.parametrize("std_over", ["group", "batch"])
def test_a_flat_group_gives_zeros_not_noise(std_over: str):
    rewards = torch.tensor([0.5, 0.5 + 5e-5, 0.5, 0.0, 1.0, 0.5])
    result = group_advantages(rewards, torch.tensor([0, 0, 0, 1, 1, 1]), std_over=std_over)
    assert result.values[:3].tolist() == [0, 0, 0]
    assert result.values[3:].abs().max() > 0.5
    assert result.flat_groups.tolist() == [True, False]


def test_a_group_with_one_valid_sample_is_flat_and_one_with_none_has_no_std():
    result = group_advantages(torch.tensor([0.7, NAN, NAN, NAN]), torch.tensor([0, 0, 1, 1]))
    assert result.values.tolist() == [0, 0, 0, 0]
    assert result.group_std[0].item() == 0
    assert result.group_std[1].isnan()
    assert result.flat_groups.tolist() == [True, True]


def test_batch_std_keeps_the_groups_own_means():
    # Means 1 and 11; population std of (0, 2, 10, 12) is sqrt(26).
    result = group_advantages(
        torch.tensor([0.0, 2.0, 10.0, 12.0]), torch.tensor([0, 0, 1, 1]), std_over="batch"
    )
    torch.testing.assert_close(result.values, torch.tensor([-1.0, 1.0, -1.0, 1.0]) / 26**0.5)


def test_the_clamp_binds_in_large_groups():
    # One of 50 stands out: (1 - 1/50) / std = sqrt(49) = 7.
    rewards = torch.zeros(50)
    rewards[7] = 1
    groups = torch.zeros(50, dtype=torch.long)
    assert group_advantages(rewards, groups).values[7].item() == 5.0
    assert group_advantages(rewards, groups, clamp=10.0).values[7].item() == pytest.approx(7.0)


rewards_and_groups = st.lists(
    st.tuples(st.floats(-3, 3, width=32), st.integers(0, 3)), min_size=1, max_size=20
)


@LAW
@given(samples=rewards_and_groups)
def test_advantages_have_mean_zero_and_spread_one_within_each_group(samples: list[tuple[float, int]]):
    rewards = torch.tensor([reward for reward, _ in samples])
    groups = torch.tensor([group for _, group in samples])
    result = group_advantages(rewards, groups)
    for group in range(int(groups.max()) + 1):
        values = result.values[groups == group].double()
        if len(values) and not result.flat_groups[group]:
            assert values.mean().item() == pytest.approx(0, abs=1e-6)
            assert values.std(correction=0).item() == pytest.approx(1, abs=1e-5)
        else:
            assert not values.any()


@LAW
@given(samples=rewards_and_groups, seed=st.integers(0, 100))
def test_the_order_of_samples_does_not_matter(samples: list[tuple[float, int]], seed: int):
    rewards = torch.tensor([reward for reward, _ in samples])
    groups = torch.tensor([group for _, group in samples])
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(seed))
    mixed = group_advantages(rewards[order], groups[order]).values
    torch.testing.assert_close(mixed, group_advantages(rewards, groups).values[order], rtol=1e-5, atol=1e-5)


def test_half_precision_rewards_have_float32_statistics():
    rewards = torch.tensor([0.1, 0.2, 0.4], dtype=torch.bfloat16)
    result = group_advantages(rewards, torch.zeros(3, dtype=torch.long))
    assert result.values.dtype == torch.float32
    expected = group_advantages(rewards.double(), torch.zeros(3, dtype=torch.long)).values
    torch.testing.assert_close(result.values.double(), expected, rtol=1e-6, atol=1e-6)


def test_what_does_not_fit_is_refused():
    rewards = torch.zeros(3)
    with pytest.raises(ValueError, match=r"got rewards \(3,\) and group_index \(2,\)"):
        group_advantages(rewards, torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="must be integers"):
        group_advantages(rewards, torch.zeros(3))
    with pytest.raises(ValueError, match="must be integers"):
        group_advantages(rewards, torch.tensor([0, -1, 0]))
    with pytest.raises(ValueError, match='std_over must be "group" or "batch", got \'all\''):
        group_advantages(rewards, torch.zeros(3, dtype=torch.long), std_over="all")
    with pytest.raises(ValueError, match="clamp must be above 0"):
        group_advantages(rewards, torch.zeros(3, dtype=torch.long), clamp=0.0)
