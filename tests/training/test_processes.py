"""Several processes of one run, real ones over gloo: the same updates however many share them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from .process_runs import command, done, run, same_update, same_weights, small_run, state_of
from .tiny_run import rows_of


@pytest.fixture(scope="module")
def given(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_run(tmp_path_factory.mktemp("given"), tiny_pipeline)


@pytest.fixture(scope="module")
def alone(given: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two updates in one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    done(command(output, **given))
    return output


@pytest.fixture(scope="module")
def together(given: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in two processes."""
    output = tmp_path_factory.mktemp("together") / "run"
    done(command(output, "--processes", "2", **given))
    return output


def test_two_processes_make_the_update_that_one_makes(alone: Path, together: Path) -> None:
    same_update(alone, together)
    files = [
        {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        for output in (alone, together)
    ]
    assert files[0] == files[1]


def test_diffusion_nft_makes_the_same_updates_in_one_two_and_sharded_processes(
    given: dict[str, object], tmp_path: Path
) -> None:
    settings = given | {
        "algorithm": "nft",
        "grpo.kl_weight": 0,
        "nft.kl_weight": 0.1,
        "nft.times_per_sample": 2,
        "nft.old_decay_rate": 0.2,
    }
    outputs = []
    for name, words in {
        "one": (),
        "two": ("--processes", "2"),
        "spread": ("--processes", "2", "--sharded"),
    }.items():
        outputs.append(tmp_path / name)
        done(command(outputs[-1], *words, **settings))
    for other in outputs[1:]:
        same_weights(outputs[0], other)
        states = [state_of(output) for output in (outputs[0], other)]
        assert states[0].old_steps == states[1].old_steps == 4
        for name, value in states[0].old.items():
            assert torch.allclose(value, states[1].old[name], rtol=1e-3, atol=1e-5), name
        for row, again in zip(rows_of(outputs[0]), rows_of(other), strict=True):
            for name in ("reward", "policy_loss", "optimality", "old_distance", "kl", "model_evaluations"):
                assert row[name] == pytest.approx(again[name], rel=1e-3, abs=1e-7), name


def test_a_base_that_is_spread_over_two_processes_learns_the_same(
    given: dict[str, object], together: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = run(command(output, "--processes", "2", "--sharded", **given))
    assert result.returncode == 0, result.stderr
    spread = [line for line in result.stderr.splitlines() if "base spread over 2 processes" in line]
    assert len(spread) == 1, result.stderr
    same_update(together, output)


def test_a_run_goes_on_in_another_number_of_processes(
    given: dict[str, object], together: Path, tmp_path: Path
) -> None:
    unbroken, output = tmp_path / "unbroken", tmp_path / "run"
    done(command(unbroken, **given, run__updates=3))
    shutil.copytree(together, output)
    done(command(output, "--resume", run__updates=3))
    assert state_of(output).update == 3
    same_weights(unbroken, output)


@pytest.mark.parametrize("file", ["ddp.yaml", "fsdp2.yaml"])
def test_accelerate_launch_makes_the_same_run_by_the_shipped_configurations(
    given: dict[str, object], together: Path, tmp_path: Path, file: str
) -> None:
    output = tmp_path / "run"
    words = command(output, **given)[3:]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"docs/accelerate/{file}"]
    done([*launch, "--num_processes", "2", "-m", "train_cli", *words])
    same_update(together, output)


def test_deepspeed_spreads_the_optimizer_and_makes_the_same_run(
    given: dict[str, object], together: Path, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    output = tmp_path / "run"
    words = command(output, **given)[3:]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "docs/accelerate/zero2.yaml",
    ]
    done([*launch, "--num_processes", "2", "-m", "train_cli", *words])
    same_update(together, output)
    done(command(output, "--resume", run__updates=3))
    assert state_of(output).update == 3


def test_cfm_makes_the_same_updates_in_one_two_and_sharded_processes(
    given: dict[str, object], tmp_path: Path
) -> None:
    """Five pairs of one target each in micro-batches of two, two micro-batches an update: parts of two and of one."""
    pictures = Path(str(given["data.source"]))
    folder = tmp_path / "pairs"
    for kind in ("target", "reference"):
        (folder / kind).mkdir(parents=True)
    for place, path in enumerate(sorted(pictures.glob("*.png"))):
        Image.open(path).convert("RGB").save(folder / "target" / path.name)
        Image.open(path).convert("RGB").rotate(90 * (1 + place % 2)).save(folder / "reference" / path.name)
        (folder / "target" / f"{path.stem}.txt").write_text(f"a toy {path.stem}")
    settings = {
        "model.path": given["model.path"],
        "model.image_size_px": 32,
        "model.gradient_checkpointing": "false",
        "model.layout": "width",
        "lora.rank": 4,
        "data.source": folder / "target",
        "data.references": folder / "reference",
        "data.held_out_pairs": 2,
        "objective.batch_size": 2,
        "objective.accumulation": 3,
        "run.updates": 2,
        "run.sample_steps": 2,
        "run.sample_pairs": 1,
        "run.sample_seeds": "[0,1,2]",
    }
    outputs = []
    for name, words in {
        "one": (),
        "two": ("--processes", "2"),
        "spread": ("--processes", "2", "--sharded"),
    }.items():
        outputs.append(tmp_path / name)
        whole = command(outputs[-1], *words, **settings)
        done(["cfm" if word == "explore" else word for word in whole])
    for other in outputs[1:]:
        same_weights(outputs[0], other)
        for row, again in zip(rows_of(outputs[0], "heldout"), rows_of(other, "heldout"), strict=True):
            assert row["validation_loss"] == pytest.approx(again["validation_loss"], rel=1e-4)
        for row, again in zip(rows_of(outputs[0]), rows_of(other), strict=True):
            assert row["loss"] == pytest.approx(again["loss"], rel=1e-4)
