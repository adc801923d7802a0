"""A whole run by DiffusionNFT on a tiny real pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

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
    gain = sum(means[-3:]) / 3 - sum(means[:3]) / 3
    print(sign, means)
    assert sign * gain > 0.003


def test_a_row_says_what_the_algorithm_measured_and_what_the_update_cost(unbroken: Path) -> None:
    first, *_, last = rows_of(unbroken)
    assert not {"ratio_mean", "ratio_max_deviation", "clip_share"} & first.keys()
    assert first["optimality"] == pytest.approx(0.5, abs=0.02), "advantages are centred in their groups"
    assert first["old_distance"] == first["kl"] == 0, "at the start old, reference and policy are one"
    assert last["old_distance"] > 0 and last["kl"] > 0 and last["policy_loss"] > 0
    # 12 samples: 3 rollout steps, and at each of 2 times 3 for the gradient, 1 of the old policy, 1 of the reference.
    assert first["model_evaluations"] == 12 * (3 + 2 * (3 + 1 + 1))
    assert first["cpu_seconds"] > 0
