"""Diversity within a group: numbers by hand, and that a copy of a new pose is no longer worth as much as the first."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rewards.novelty import marginal_novelty, novelty_bonus

LAW = settings(deadline=None, derandomize=True, max_examples=40)
FAR = 1e3


def test_strangers_add_log_2_and_copies_little() -> None:
    strangers = marginal_novelty(FAR * (1 - torch.eye(3)), scale=1.0)
    assert strangers.tolist() == pytest.approx([math.log(2)] * 3)
    # S is all ones: (I + 11')^-1 = I - 11'/(K + 1), so m = -log(1 - 1/4) for K = 3
    copies = marginal_novelty(torch.zeros(3, 3), scale=1.0)
    assert copies.tolist() == pytest.approx([-math.log(3 / 4)] * 3)


def test_two_pictures_worked_by_hand() -> None:
    # S12 = exp(-1) =: s; (I + S)^-1_11 = 2 / (4 - s^2)
    s = math.exp(-1)
    novelty = marginal_novelty(torch.tensor([[0.0, 0.5], [0.5, 0.0]]), scale=0.5)
    assert novelty.tolist() == pytest.approx([-math.log(2 / (4 - s * s))] * 2)


@LAW
@given(seed=st.integers(0, 1000), count=st.integers(2, 8))
def test_the_sum_of_a_chain_of_gains_is_the_log_determinant(seed: int, count: int) -> None:
    # m_i is the gain of log det(I + S) from picture i when the others are there
    places = torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    distances = torch.cdist(places, places)
    kernel = torch.eye(count, dtype=torch.float64) + torch.exp(-((distances / 0.3) ** 2))
    rest = kernel[1:, 1:]
    gain = torch.logdet(kernel) - torch.logdet(rest)
    assert marginal_novelty(distances, scale=0.3)[0].item() == pytest.approx(gain.item(), abs=1e-5)


def test_a_picture_that_cannot_be_compared_has_no_novelty() -> None:
    distances = torch.tensor([[0.0, 0.1, math.nan], [0.1, 0.0, math.nan], [math.nan, math.nan, 0.0]])
    novelty = marginal_novelty(distances, scale=0.5)
    assert novelty.isnan().tolist() == [False, False, True]
    two = marginal_novelty(distances[:2, :2], scale=0.5)
    assert torch.allclose(novelty[:2], two)


def test_the_bonus_goes_to_those_who_pass_and_did_better_worked_by_hand() -> None:
    # group 0: rows 0, 1, 2 may have it; m .1 .3 .2 has mean .2, std .0816; row 3 fails, row 4 did worse
    advantages = torch.tensor([1.0, 1.0, 0.5, 2.0, -1.0, 1.0])
    novelty = torch.tensor([0.1, 0.3, 0.2, 0.6, 0.6, 0.6])
    passes = torch.tensor([True, True, True, False, True, True])
    group = torch.tensor([0, 0, 0, 0, 0, 1])
    given_to = novelty_bonus(advantages, novelty, passes, group, weight=0.2)
    step = 0.2 * 0.1 / math.sqrt(2 / 3 * 0.01)
    assert given_to.tolist() == pytest.approx([1 - step, 1 + step, 0.5, 2.0, -1.0, 1.0])


def test_without_weight_or_difference_nothing_is_added() -> None:
    advantages = torch.tensor([1.0, 0.5])
    args = (torch.tensor([0.2, 0.4]), torch.tensor([True, True]), torch.tensor([0, 0]))
    assert torch.equal(novelty_bonus(advantages, *args, weight=0.0), advantages)
    alike = (torch.tensor([0.2, 0.2]), *args[1:])
    assert torch.equal(novelty_bonus(advantages, *alike, weight=0.3), advantages)
    unknown = (torch.tensor([math.nan, 0.2]), *args[1:])
    assert torch.equal(novelty_bonus(advantages, *unknown, weight=0.3), advantages)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"distances \(K, K\)"):
        marginal_novelty(torch.zeros(2, 3), scale=1.0)
    with pytest.raises(ValueError, match="scale must be above 0"):
        marginal_novelty(torch.zeros(2, 2), scale=0.0)
    with pytest.raises(ValueError, match="weight must be at least 0"):
        novelty_bonus(torch.zeros(1), torch.zeros(1), torch.ones(1).bool(), torch.zeros(1).long(), weight=-1)
