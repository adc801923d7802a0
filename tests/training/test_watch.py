"""Warnings about a run that goes wrong, and silence about one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from divrl_core.config import GrpoConfig, TrainConfig
from divrl_core.evaluation.heldout import selection_score
from divrl_core.training.watch import Watch


def watch(**grpo: Any) -> Watch:
    return Watch(TrainConfig.explore(grpo=GrpoConfig(**grpo)), lambda row: selection_score("explore", row))


def train_row(update: int, reward: float, flat_groups: float = 0.0) -> dict[str, Any]:
    return {
        "kind": "train",
        "update": update,
        "reward": reward,
        "flat_groups": flat_groups,
        "reward_std_within": 0.1,
    }


def heldout_row(update: int, nssm: float) -> dict[str, Any]:
    return {"kind": "heldout", "update": update, "nssm": nssm, "nssm_se": 0.01}


def run_of(rewards: list[float], heldout: list[float]) -> list[dict[str, Any]]:
    """Held-out measures before the first update and after every second one."""
    rows: list[dict[str, Any]] = [heldout_row(0, heldout[0])]
    for update, reward in enumerate(rewards, start=1):
        rows.append(train_row(update, reward))
        if update % 2 == 0:
            rows.append(heldout_row(update, heldout[update // 2]))
    return rows


RISING = [0.30, 0.32, 0.34, 0.36, 0.38, 0.40, 0.42, 0.44]


def test_a_rising_reward_with_falling_held_out_measures_is_called_out_once() -> None:
    rows, ours = run_of(RISING, [0.30, 0.34, 0.33, 0.31, 0.29]), watch()
    (text,) = ours.new_warnings(rows)
    assert "while the held-out measure falls (0.340 at update 2, 0.290 now)" in text
    assert ours.new_warnings(rows) == []


@pytest.mark.parametrize(
    ("rewards", "heldout"),
    [
        (RISING, [0.30, 0.32, 0.34, 0.36, 0.38]),  # both rise
        (RISING, [0.30, 0.34, 0.34, 0.33, 0.33]),  # a fall within two standard errors
        (RISING[::-1], [0.30, 0.34, 0.33, 0.31, 0.29]),  # both fall
    ],
)
def test_a_healthy_run_is_not_called_out(rewards: list[float], heldout: list[float]) -> None:
    assert watch().new_warnings(run_of(rewards, heldout)) == []


def test_flat_groups_are_called_out_after_three_updates_in_a_row() -> None:
    ours = watch()
    rows = [train_row(1, 0.3, flat_groups=0.8), train_row(2, 0.3, flat_groups=0.8)]
    assert ours.new_warnings(rows) == []
    rows.append(train_row(3, 0.3, flat_groups=0.9))
    assert "rewards do not vary within groups: 83% of the groups" in ours.new_warnings(rows)[0]


def test_groups_smaller_than_four_are_warned_of_at_the_start() -> None:
    assert any("group_size is 3" in text for text in watch(group_size=3).at_start())
    assert watch(group_size=21).at_start() == []
