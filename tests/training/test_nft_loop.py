"""Whole runs by DiffusionNFT on a tiny real pipeline: they learn, stop, go on exactly, and hand on to suppress."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from divrl_core.evaluation.report import report_page
from divrl_core.models.lora_file import read_lora
from divrl_core.training.checkpoint import TrainState, latest_checkpoint, load_checkpoint
from divrl_core.training.grpo_loop import train
from divrl_core.training.references import Reference

from .nft_runs import nft_config
from .tiny_run import brighter_pipeline, rows_of, toy_data


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brighter_pipeline(tiny_pipeline, tmp_path_factory.mktemp("bright") / "pipeline")


@pytest.fixture(scope="module")
def unbroken(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates that nothing stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(nft_config(pipeline), output, data=toy_data())
    return output


def brightness(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    return pictures.mean(dim=(1, 2, 3))


def darkness(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    """Brightness with its sign turned: within a group its advantages are brightness's, times -1."""
    return -brightness(pictures, reference, prompt)


def state_of(output: Path) -> TrainState:
    latest = latest_checkpoint(output / "checkpoint")
    assert latest is not None
    return load_checkpoint(latest)


@pytest.mark.parametrize("sign", [1, -1])
def test_brightness_goes_within_ten_updates_where_the_reward_pays_for_it(
    pipeline: Path, tmp_path: Path, sign: int
) -> None:
    config = nft_config(
        pipeline,
        optim={"lr": 3e-2},
        grpo={"group_size": 8, "micro_batch": 8},
        run={"updates": 10, "eval_every_updates": 10, "save_every_updates": 10},
    )
    train(config, tmp_path / "run", data=toy_data(), reward=brightness if sign > 0 else darkness)
    means = [sign * row["reward"] for row in rows_of(tmp_path / "run")]
    # Three updates are 48 samples of spread .006, so a mean of three is known to .001.
    assert sign * (sum(means[-3:]) - sum(means[:3])) / 3 > 0.003


def test_a_row_says_what_the_algorithm_measured_and_what_the_update_cost(unbroken: Path) -> None:
    first, *_, last = rows_of(unbroken)
    assert not {"ratio_mean", "ratio_max_deviation", "clip_share"} & first.keys()
    assert first["optimality"] == pytest.approx(0.5, abs=0.02), "advantages are centred in their groups"
    assert first["old_distance"] == first["kl"] == 0, "at the start old, reference and policy are one"
    assert last["kl"] > 0 and last["policy_loss"] > 0 and last["grad_norm"] > 0
    # 12 samples: 3 rollout steps, and at each of 2 times 3 for the gradient, 1 of the old policy, 1 of the reference.
    assert first["model_evaluations"] == 12 * (3 + 2 * (3 + 1 + 1))
    assert first["cpu_seconds"] > 0
    assert {path.name for path in (unbroken / "lora").iterdir()} >= {"best.safetensors", "last.safetensors"}


def test_a_run_stopped_on_the_way_and_resumed_equals_the_unbroken_run(
    pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    for updates in (1, 3, 4):
        train(nft_config(pipeline, run={"updates": updates}), output, data=toy_data(), resume=updates > 1)
    states = [state_of(path) for path in (unbroken, output)]
    for part in ("parameters", "average", "optimizer", "old"):
        left, right = (getattr(state, part) for state in states)
        assert left.keys() == right.keys() and left
        assert all(torch.equal(left[name], right[name]) for name in left), part
    assert states[0].old_steps == states[1].old_steps == 4
    assert any(not torch.equal(states[0].old[name], states[0].parameters[name]) for name in states[0].old), (
        "the old policy must lag behind, or this says nothing"
    )
    logs = [rows_of(path) for path in (unbroken, output)]
    for row in (row for log in logs for row in log):
        del row["seconds"], row["cpu_seconds"]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("kl_weight", [0.0, 0.1])
def test_suppress_goes_on_from_explores_lora_with_an_old_policy_of_its_own(
    pipeline: Path, unbroken: Path, tmp_path: Path, kl_weight: float
) -> None:
    lora = unbroken / "lora" / "last.safetensors"
    config = nft_config(
        pipeline,
        nft={"kl_weight": kl_weight},
        stage="suppress",
        kind="brightness",
        grpo={"kl_reference": "init"},
        run={"updates": 1, "init_lora": str(lora)},
    )
    output = tmp_path / "suppress"
    train(config, output, data=toy_data())
    (row,) = rows_of(output)
    assert row["kl"] == (0 if kl_weight else None), (
        "before its first step the policy is the LoRA of the start"
    )
    assert row["old_distance"] == 0
    state = state_of(output)
    start = {
        name: value / (2.0 if ".lora_B." in name else 1) for name, value in read_lora(lora).tensors.items()
    }
    assert state.kl_reference.keys() == (start.keys() if kl_weight else set())
    assert all(torch.equal(state.kl_reference[name], start[name]) for name in state.kl_reference)
    # After one step the old policy keeps a thousandth of the start.
    for name, value in state.old.items():
        torch.testing.assert_close(value, 0.001 * start[name] + 0.999 * state.parameters[name])


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"dtype": "bfloat16"}], ids=str)
def test_checkpointing_and_bfloat16_learn_too(pipeline: Path, tmp_path: Path, changes: dict) -> None:
    config = nft_config(
        pipeline,
        nft={"times": "uniform", "noisy_rollout": True, "beta": 0.1},
        model=changes,
        run={"updates": 2},
    )
    train(config, tmp_path / "run", data=toy_data())
    rows = rows_of(tmp_path / "run")
    assert all(row["grad_norm"] > 0 and math.isfinite(row["policy_loss"]) for row in rows)
    assert rows[0]["old_distance"] == 0, "the two adapters answer alike, with a gradient and without"


def test_rewards_that_never_vary_teach_nothing_and_are_warned_of(pipeline: Path, tmp_path: Path) -> None:
    def constant(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        return torch.full((len(pictures),), 0.5)

    output = tmp_path / "run"
    config = nft_config(pipeline, run={"updates": 3})
    train(replace(config, nft=replace(config.nft, beta=0.1)), output, data=toy_data(), reward=constant)
    weights = state_of(output).parameters
    assert not any(weights[name].any() for name in weights if ".lora_B." in name)
    (said,) = [row["message"] for row in rows_of(output, "warning") if "do not vary" in row["message"]]
    assert "raise grpo.group_size" in said, "the rollout has no noise that could be raised"


def test_the_report_of_a_run_names_the_algorithm_and_draws_its_curves(unbroken: Path) -> None:
    page = report_page([unbroken])
    assert "4 updates by nft" in page
    assert "Distance from the old policy" in page and "Clipped share" not in page
