"""Several processes of one run, real ones over gloo: the same updates however many share them, and no hang."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.training.checkpoint import TrainState, latest_checkpoint, load_checkpoint

from .tiny_run import brighter_pipeline, rows_of

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240

# Three groups of five in parts of 1, 2 and 2: nine units, which two processes cannot share evenly.
SETTINGS = {
    "model.image_size_px": 32,
    "model.gradient_checkpointing": "false",
    "lora.rank": 4,
    "reward.kind": "brightness",
    "data.held_out_references": 2,
    "rollout.steps": 3,
    "rollout.stochastic_steps": "[0,1]",
    "grpo.group_size": 5,
    "grpo.groups_per_update": 3,
    "grpo.micro_batch": 2,
    "grpo.kl_weight": 0.1,
    "grpo.optimizer_steps_per_rollout": 2,
    "grpo.clip_range": 1e-3,
    "run.updates": 2,
    "run.eval_every_updates": 2,
    "run.sample_every_updates": 100,
    "run.save_every_updates": 1,
    "run.eval_steps": 2,
    "run.sample_steps": 2,
    "run.eval_images": 5,
    "run.sample_references": 2,
    "run.sample_seeds": "[0]",
}


@pytest.fixture(scope="module")
def given(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The settings of a small run: a pipeline, and a folder of eight pictures whose middle is the object."""
    folder = tmp_path_factory.mktemp("given")
    generator = np.random.default_rng(0)
    for name in "abcdefgh":
        pixels = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC)
        picture.putalpha(Image.new("L", (40, 40), 255).crop((-12, -12, 52, 52)))
        (folder / "pictures").mkdir(exist_ok=True)
        picture.save(folder / "pictures" / f"{name}.png")
        (folder / "pictures" / f"{name}.txt").write_text(f"a toy {name} on a blue floor")
    pipeline = brighter_pipeline(tiny_pipeline, folder / "pipeline")
    return {**SETTINGS, "model.path": pipeline, "data.source": folder / "pictures"}


def command(output: Path, *words: str, **settings: object) -> list[str]:
    """`divrl-train explore`, in an interpreter of its own."""
    named = {name.replace("__", "."): value for name, value in settings.items()}
    overrides = [word for name, value in named.items() for word in ("--set", f"{name}={value}")]
    return [sys.executable, "-m", "train_cli", "explore", "--output", str(output), *words, *overrides]


def run(words: Sequence[str], *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder or ''}"}
    environment = {name: value for name, value in environment.items() if name not in ("RANK", "LOCAL_RANK")}
    return subprocess.run(
        words, cwd=folder or ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )


def done(words: Sequence[str]) -> None:
    result = run(words)
    assert result.returncode == 0, result.stderr


def state_of(output: Path) -> TrainState:
    latest = latest_checkpoint(output / "checkpoint")
    assert latest is not None
    return load_checkpoint(latest)


def same_weights(first: Path, second: Path) -> None:
    """Weights, averages and moments agree to 1e-5."""
    one, other = state_of(first), state_of(second)
    assert one.update == other.update
    moved = 0.0
    for kind in ("parameters", "average", "optimizer"):
        tensors, others = getattr(one, kind), getattr(other, kind)
        assert tensors.keys() == others.keys()
        for name, value in tensors.items():
            assert torch.allclose(value, others[name], rtol=1e-3, atol=1e-5), f"{kind} {name}"
            moved = max(moved, value.abs().max().item())
    assert moved > 1e-4


def same_update(first: Path, second: Path) -> None:
    """Weights, averages and moments agree to 1e-5, and so does what the log says."""
    same_weights(first, second)
    for row, again in zip(rows_of(first), rows_of(second), strict=True):
        for name in ("reward", "kl", "grad_norm", "ratio_mean", "samples", "invalid"):
            assert row[name] == pytest.approx(again[name], rel=1e-4, abs=1e-7), name
    held_out = [json.loads(path.read_text()) for path in sorted(first.glob("heldout/*.json"))]
    again = [json.loads(path.read_text()) for path in sorted(second.glob("heldout/*.json"))]
    assert len(held_out) == len(again) > 0
    for before, after in zip(held_out, again, strict=True):
        names = [[(s["reference_id"], s["sample"]) for s in side["samples"]] for side in (before, after)]
        assert names[0] == names[1]
        assert before["summary"]["selection"] == pytest.approx(after["summary"]["selection"], abs=1e-3)


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


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the file is there. Fails when the process ends before."""
    started = time.monotonic()
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() - started < PATIENCE_S
        time.sleep(0.05)


def started(words: Sequence[str]) -> subprocess.Popen[str]:
    """A run in the background, in a process group of its own, as a terminal gives it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(pid: int) -> dict[str, int]:
    """The workers of a run by their rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, environment = (folder / "status").read_text(), (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in status:
            ranks = [word for word in environment.split(b"\0") if word.startswith(b"RANK=")]
            found.update({rank.decode().removeprefix("RANK="): int(folder.name) for rank in ranks})
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the workers in /proc")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_dead_worker_ends_the_run_with_its_checkpoint_whole_and_a_message(
    given: dict[str, object], tmp_path: Path, rank: str
) -> None:
    output = tmp_path / "run"
    process = started(command(output, "--processes", "2", **given, run__updates=500))
    try:
        wait_for(output / "checkpoint" / "update-000001" / "state.json", process)
        os.kill(children(process.pid)[rank], signal.SIGKILL)
        killed = time.monotonic()
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert time.monotonic() - killed < 45
    last = said.strip().splitlines()[-1]
    assert f"process {rank} of 2 was killed by SIGKILL" in said, said
    assert "Traceback" not in said, said
    assert "--resume" in last or "--resume" in said
    at = state_of(output).update
    assert at >= 1
    done(command(output, "--resume", "--processes", "2", run__updates=at + 1))
    assert state_of(output).update == at + 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_stops_all_processes_saved(given: dict[str, object], tmp_path: Path) -> None:
    output = tmp_path / "run"
    settings = {**given, "run.updates": 500, "run.save_every_updates": 400}
    process = started(command(output, "--processes", "2", **settings))
    try:
        log = output / "metrics.jsonl"
        wait_for(log, process)
        while not any('"train"' in line for line in log.read_text().splitlines()):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert f"go on with: divrl-train explore --output {output} --resume" in said
    assert state_of(output).update >= 1


def test_a_mistake_is_told_once_by_all_processes(given: dict[str, object], tmp_path: Path) -> None:
    result = run(command(tmp_path / "run", "--processes", "2", **given, lora__targets="nothing.at.all"))
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("divrl-train")]
    assert len(lines) == 1 and "lora.targets" in lines[0], result.stderr


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


def test_a_quantised_base_is_not_spread(given: dict[str, object], tmp_path: Path) -> None:
    words = command(tmp_path / "run", "--processes", "2", "--sharded", **given, model__quantization="fp8")
    result = run(words)
    assert result.returncode == 2
    assert "cannot have model.quantization=fp8 too" in result.stderr


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


def test_sharding_one_process_is_refused(given: dict[str, object], tmp_path: Path) -> None:
    result = run(command(tmp_path / "run", "--sharded", **given))
    assert result.returncode == 2
    assert "--sharded needs --processes 2 or more" in result.stderr
