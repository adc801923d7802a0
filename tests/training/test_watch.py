"""Warnings about a run that goes wrong, and silence about one that does not."""

from __future__ import annotations

from typing import Any

import pytest

from divrl_core.config import GrpoConfig, RewardConfig, TrainConfig
from divrl_core.evaluation.heldout_summary import selection_score
from divrl_core.training.watch import Warned, Watch


def watch(**grpo: Any) -> Watch:
    config = TrainConfig.explore(grpo=GrpoConfig(**grpo))
    return Watch(config, selection_score)


def logged(warnings: list[Warned]) -> list[dict[str, Any]]:
    """The rows that a run writes of its warnings."""
    return [{"kind": "warning", "update": 8, "name": one.name, "message": one.message} for one in warnings]


def train_row(update: int, reward: float, flat_groups: float = 0.0) -> dict[str, Any]:
    return {
        "kind": "train",
        "update": update,
        "reward": reward,
        "flat_groups": flat_groups,
        "reward_std_within": 0.1,
    }


def heldout_row(update: int, nssm: float) -> dict[str, Any]:
    measures = {"nssm": nssm, "nssm_se": 0.01, "selection": nssm, "selection_se": 0.01}
    return {"kind": "heldout", "update": update, **measures}


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
    rows = run_of(RISING, [0.30, 0.34, 0.33, 0.31, 0.29])
    (warning,) = watch().new_warnings(rows)
    assert "while the held-out measure falls (0.340 at update 2, 0.290 now)" in warning.message
    assert watch().new_warnings([*rows, *logged([warning])]) == [], "the log knows, whoever reads it"


def gated_run(selection: list[float], selection_se: float | None) -> list[dict[str, Any]]:
    """A suppress run whose nSSM is known well; the measure it is chosen by is known to `selection_se`."""
    rows = run_of(RISING, [0.30] * 5)
    heldout = [row for row in rows if row["kind"] == "heldout"]
    for row, value in zip(heldout, selection, strict=True):
        row |= {"nssm_se": 0.001, "selection": value, "selection_se": selection_se}
    return rows


@pytest.mark.parametrize(("selection_se", "warnings"), [(0.01, 1), (0.03, 0), (None, 0)])
def test_a_fall_is_held_against_the_error_of_the_measure_that_fell(
    selection_se: float | None, warnings: int
) -> None:
    config = TrainConfig.suppress(init_lora="explore.safetensors", reward=RewardConfig(kind="gated"))
    ours = Watch(config, selection_score)
    rows = gated_run([0.20, 0.22, 0.21, 0.20, 0.17], selection_se)
    assert len(ours.new_warnings(rows)) == warnings


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
    assert "rewards do not vary within groups: 83% of the groups" in ours.new_warnings(rows)[0].message


def test_groups_smaller_than_four_are_warned_of_at_the_start() -> None:
    assert any("group_size is 3" in warning.message for warning in watch(group_size=3).at_start())
    assert watch(group_size=21).at_start() == []


def known_run(nssm: list[float], clean: list[float | None]) -> list[dict[str, Any]]:
    rows = run_of(RISING[: 2 * (len(nssm) - 1)], nssm)
    heldout = [row for row in rows if row["kind"] == "heldout"]
    for row, share in zip(heldout, clean, strict=True):
        row |= (
            {"selection_se": None}
            if share is None
            else {"clean_share": share, "clean_share_se": 0.04, "selection_se": None}
        )
    return rows


def test_figures_that_come_apart_are_called_out_where_the_truth_is_known() -> None:
    (warning,) = watch().new_warnings(known_run([0.30, 0.40, 0.55], [0.90, 0.80, 0.50]))
    assert "nSSM rises (0.300 to 0.550) while fewer pictures are whole (90% to 50% clean)" in warning.message


@pytest.mark.parametrize(
    ("nssm", "clean"),
    [
        ([0.30, 0.40, 0.55], [0.90, 0.88, 0.86]),  # within the errors
        ([0.30, 0.30, 0.29], [0.90, 0.80, 0.50]),  # broken, but not for diversity's sake
        ([0.30, 0.40, 0.55], [None, None, None]),  # the world is not known
    ],
)
def test_whole_figures_are_left_in_peace(nssm: list[float], clean: list[float | None]) -> None:
    assert watch().new_warnings(known_run(nssm, clean)) == []
