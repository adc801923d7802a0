"""The held-out number of a reward that is no formula of nSSM and VSM: what it paid, and nothing else."""

from __future__ import annotations

import math

import pytest

from divrl_core.config import RewardConfig
from divrl_core.evaluation.heldout_summary import SampleScore, sample_row, selection_summary

OWN = RewardConfig(kind="own", function="a:b")


def score(reference: str, reward: float | None) -> SampleScore:
    return SampleScore(reference_id=reference, prompt="a toy", sample=0, nssm=0.9, vsm=0.8, reward=reward)


def test_the_selection_is_the_mean_of_what_was_paid_with_its_own_error_worked_by_hand() -> None:
    # Means of "a" and "b" are 1 and 4, each of two pictures: 2.5, and its error sqrt(2 (.75^2 + .75^2)) = 1.5.
    samples = [score("a", 0.0), score("a", 2.0), score("b", 3.0), score("b", 5.0)]
    summary = selection_summary(OWN, samples, gates={"vsm": 0.6})
    assert summary == pytest.approx({"selection": 2.5, "selection_se": 1.5})


def test_an_undefined_reward_is_left_out_and_never_replaced_by_nssm() -> None:
    some = selection_summary(OWN, [score("a", 2.0), score("a", math.nan)], gates={"vsm": 0.6})
    assert some["selection"] == 2.0
    assert math.isnan(selection_summary(OWN, [score("a", math.nan)], gates={"vsm": 0.6})["selection"])


def test_a_row_names_the_reward_only_where_one_was_paid() -> None:
    assert sample_row(score("a", 0.5))["reward"] == 0.5
    assert "reward" not in sample_row(score("a", None))
