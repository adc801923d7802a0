"""The experiments on rewards and algorithms: their plans, and their pages from cells."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from divrl_core.config import TrainConfig
from divrl_core.evaluation.algorithm_plan import ARMS, algorithm_plan
from divrl_core.evaluation.algorithm_report import compute_png, end_table, points
from divrl_core.evaluation.algorithm_report import page as algorithm_page
from divrl_core.evaluation.experiment_plan import BASE
from divrl_core.evaluation.experiment_results import Cell, Results
from divrl_core.evaluation.experiments import EXPERIMENTS
from divrl_core.evaluation.reward_plan import DIVERSE, GATED_TWICE, ORDER, STRUCTURES, reward_plan
from divrl_core.evaluation.reward_report import further_table
from divrl_core.evaluation.reward_report import page as reward_page
from train_cli.experiment import FOLDERS


def test_the_command_knows_every_experiment() -> None:
    assert list(FOLDERS) == list(EXPERIMENTS)


def test_arms_of_the_rewards_differ_in_the_reward_alone() -> None:
    plan = reward_plan(seed=3, threads=None)
    assert plan.names == ORDER
    paper = plan.arm("explore-nssm").config
    assert isinstance(paper, TrainConfig)
    for structure in STRUCTURES:
        explore = plan.arm(f"explore-{structure}").config
        assert explore == replace(paper, reward=replace(paper.reward, structure=structure))
        assert plan.arm(f"suppress-{structure}").starts_from == f"explore-{structure}"
    twice, diverse = plan.arm(GATED_TWICE).config, plan.arm(DIVERSE).config
    assert isinstance(twice, TrainConfig) and isinstance(diverse, TrainConfig)
    assert [gate.measure for gate in twice.reward.asked] == ["vsm", "second.extent"]
    assert diverse.grpo.diversity_weight > 0
    assert replace(diverse, grpo=twice.grpo) == twice


def test_arms_of_the_algorithms_are_paid_alike_and_start_from_the_base() -> None:
    plan = algorithm_plan(seed=1, threads=None)
    configs = [arm.config for arm in plan.arms]
    assert all(isinstance(config, TrainConfig) for config in configs)
    assert len({str(config.reward) for config in configs if isinstance(config, TrainConfig)}) == 1
    assert all(arm.starts_from is None for arm in plan.arms)
    assert len({str(config) for config in configs}) == len(ARMS)
    nft = plan.arm("nft").config
    assert isinstance(nft, TrainConfig) and nft.algorithm == "nft"


def cell(model: str, seed: int, *, value: float = 0.4) -> Cell:
    samples = tuple(
        {
            "reference_id": f"r{place}",
            "prompt": "p",
            "sample": 0,
            "nssm": value,
            "vsm": 0.9,
            "clean": 1.0,
            "pose_change_deg": 20.0 * (place % 2),
            "identity_error": 0.05,
        }
        for place in range(4)
    )
    curve = [
        {"kind": "heldout", "update": 0, "selection": 0.1, "turned_share": 0.0, "clean_share": 0.9},
        {"kind": "train", "update": 1, "model_evaluations": 900, "cpu_seconds": 2.0},
        {"kind": "train", "update": 2, "model_evaluations": 1100, "cpu_seconds": 3.0},
        {"kind": "heldout", "update": 2, "selection": value, "turned_share": 0.5, "clean_share": 0.2},
    ]
    return Cell(
        model=model,
        seed=seed,
        summary={"nssm": value, "vsm": 0.9, "n": 4, "n_references": 4, "steps": 28, "set_pose_deg": 12.34},
        settings={"consistency_cutoff": 0.8, "backbone": "lite0"},
        samples=samples,
        curve=() if model == BASE else tuple(curve),
    )


def test_costs_add_up_over_the_updates_before_an_evaluation() -> None:
    found = points(cell("nft", 0))
    assert [point["model_evaluations"] for point in found] == [0, 2000]
    assert [point["cpu_seconds"] for point in found] == [0, 5]
    assert [point["selection"] for point in found] == [0.1, 0.4]


def test_the_page_of_algorithms_tells_ends_and_costs_over_seeds() -> None:
    results = Results(
        [cell(BASE, 0), *(cell("nft", seed, value=0.4 + 0.1 * seed) for seed in (0, 1))], (BASE, "nft")
    )
    assert "| nft | 0.450 ± 0.071 | 0.500 ± 0.000 | 0.200 ± 0.000 | 2.0 ± 0.0 | 5.0 ± 0.0 |" in end_table(
        results
    )
    assert "3 cells" in algorithm_page(results)
    assert Image.open(io.BytesIO(compute_png(results))).size[0] > 600


def test_the_page_of_rewards_compares_with_the_papers(tmp_path: Path) -> None:
    results = Results(
        [cell(name, seed) for name in (BASE, "suppress-nssm", GATED_TWICE) for seed in (0, 1)], ORDER
    )
    text = reward_page(results, has_sheet=False)
    assert f"{GATED_TWICE} − suppress-nssm" in text and f"{GATED_TWICE} − base" in text
    assert "sheet.jpg" not in text
    assert "12.3 ± 0.0" in further_table(results)
    assert EXPERIMENTS["rewards"].write(tmp_path / "cells", tmp_path) is None


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_has_the_base_first(name: str) -> None:
    assert EXPERIMENTS[name].plan(seed=0, threads=1).names[0] == BASE
