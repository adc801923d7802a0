"""Rewards: eq. 8 and 9 by hand, the comparisons, and undefined parts."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rewards.gate import gate_gap, gated_total, linear_total, passes, suppress_reward

LAW = settings(deadline=None, derandomize=True, max_examples=60)
NAN = float("nan")


def test_suppress_worked_by_hand():
    # s = .5, lambda = 5: VSM .6 passes; .3 costs 5 * .04 = .2; .0 costs 5 * .25 = 1.25
    reward = suppress_reward(
        torch.tensor([0.4, 0.7, 0.9]), torch.tensor([0.6, 0.3, 0.0]), gate=0.5, penalty_weight=5.0
    )
    torch.testing.assert_close(reward.total, torch.tensor([0.4, 0.5, -0.35]))
    torch.testing.assert_close(reward.gap, torch.tensor([0.0, 0.2, 0.5]))


@LAW
@given(nssm=st.floats(0, 2), vsm=st.floats(0, 1), gate=st.floats(0, 1), weight=st.floats(0, 20))
def test_suppress_equals_the_case_distinction_of_the_paper(
    nssm: float, vsm: float, gate: float, weight: float
):
    expected = nssm if vsm >= gate else nssm - weight * (gate - vsm) ** 2
    both = (torch.tensor([value], dtype=torch.float64) for value in (nssm, vsm))
    reward = suppress_reward(*both, gate=gate, penalty_weight=weight)
    assert reward.total.item() == pytest.approx(expected, abs=1e-12)
    assert (reward.gap.item() > 0) == (vsm < gate)


def test_a_sample_exactly_at_the_gate_is_not_punished():
    reward = suppress_reward(torch.tensor([0.4]), torch.tensor([0.5]), gate=0.5, penalty_weight=5.0)
    assert reward.total.item() == pytest.approx(0.4)


def test_several_gates_cost_as_much_as_their_gaps_together():
    # VSM .3 below .5 and coverage .1 below .5: gaps .2 and .4, together sqrt(.2), penalty 5 * .2 = 1
    measures = {"vsm": torch.tensor([0.3, 0.9, 0.3]), "coverage": torch.tensor([0.1, 0.8, 0.7])}
    gap = gate_gap(measures, {"vsm": 0.5, "coverage": 0.5})
    torch.testing.assert_close(gap, torch.tensor([math.sqrt(0.2), 0.0, 0.2]))
    total = gated_total(torch.tensor([0.4, 0.4, 0.4]), gap, penalty_weight=5.0)
    torch.testing.assert_close(total, torch.tensor([-0.6, 0.4, 0.2]))


def test_a_gate_with_an_undefined_measure_is_undefined():
    measures = {"vsm": torch.tensor([0.9]), "coverage": torch.tensor([NAN])}
    assert gate_gap(measures, {"vsm": 0.5, "coverage": 0.5}).isnan().all()
    assert gate_gap(measures, {"vsm": 0.5}).item() == 0
    assert passes(torch.tensor([NAN, 0.1]), torch.tensor([0.9, 0.9]), gate=0.5).tolist() == [False, True]


def test_linear_weights_worked_by_hand():
    total = linear_total(torch.tensor([0.8]), torch.tensor([0.4]), vsm_weight=0.25)
    assert total.item() == pytest.approx(0.7)


@pytest.mark.parametrize(("nssm", "vsm"), [(NAN, 0.9), (NAN, 0.1), (0.5, NAN), (NAN, NAN)])
def test_an_undefined_part_makes_the_reward_undefined_not_zero(nssm: float, vsm: float):
    parts = torch.tensor([nssm]), torch.tensor([vsm])
    assert suppress_reward(*parts, gate=0.5, penalty_weight=5.0).total.isnan().all()
    assert linear_total(*parts, vsm_weight=0.5).isnan().all()


def test_the_parts_of_a_reward_are_kept():
    nssm, vsm = torch.tensor([0.4]), torch.tensor([0.3])
    reward = suppress_reward(nssm, vsm, gate=0.5, penalty_weight=5.0)
    assert torch.equal(reward.nssm, nssm) and torch.equal(reward.vsm, vsm)
    assert reward.gap.item() == pytest.approx(0.2)


def test_settings_that_cannot_be_meant_are_refused():
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ValueError, match="penalty_weight must be at least 0"):
        suppress_reward(one, one, gate=0.5, penalty_weight=-1.0)
    with pytest.raises(ValueError, match=r"vsm_weight must lie in \[0, 1\], got 1.5"):
        linear_total(one, one, vsm_weight=1.5)
    with pytest.raises(ValueError, match=r"same samples: got shapes \(1,\) and \(2,\)"):
        suppress_reward(one, two, gate=0.5, penalty_weight=5.0)
    with pytest.raises(ValueError, match="at least one gate"):
        gate_gap({"vsm": one}, {})
