"""A cfm run that is stopped, killed or made longer equals one that nothing stopped, bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from divrl_core.training.cfm_loop import train_cfm
from divrl_core.training.checkpoint import latest_checkpoint, load_checkpoint

from .tiny_cfm import tiny_cfm, toy_data
from .tiny_run import rows_of

# Looks at a picture's facts, of some fifty in a run: while pictures are encoded, and in three of the updates.
LOOKS = (8, 26, 32, 38)


@pytest.fixture(scope="module")
def unbroken(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates that nothing stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train_cfm(tiny_cfm(tiny_pipeline), output, data=toy_data())
    return output


def equal_runs(one: Path, other: Path) -> None:
    """The same weights, moments and averages bit for bit, the same rows but for seconds."""
    for name in ("lora/last.safetensors", "lora/best.safetensors"):
        mine, theirs = load_file(one / name), load_file(other / name)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    states = [load_checkpoint(latest_checkpoint(run / "checkpoint")) for run in (one, other)]  # type: ignore[arg-type]
    for part in ("parameters", "average", "optimizer"):
        mine, theirs = (getattr(state, part) for state in states)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine), part
    for kind in ("train", "heldout"):
        rows = [[{**row, "seconds": 0} for row in rows_of(run, kind)] for run in (one, other)]
        assert rows[0] == rows[1]


@pytest.mark.parametrize("look", LOOKS)
def test_a_run_stopped_by_ctrl_c_anywhere_and_resumed_equals_the_unbroken_run(
    tiny_pipeline: Path, unbroken: Path, tmp_path: Path, look: int
) -> None:
    looks = 0

    def interrupt() -> None:
        nonlocal looks
        looks += 1
        if looks == look:
            os.kill(os.getpid(), signal.SIGINT)

    output, config = tmp_path / "run", tiny_cfm(tiny_pipeline)
    with pytest.raises(KeyboardInterrupt):
        train_cfm(config, output, data=toy_data(on_facts=interrupt))
    train_cfm(config, output, data=toy_data(), resume=True)
    equal_runs(output, unbroken)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "prodigy"])
def test_each_optimizer_goes_on_exactly_from_a_shorter_run(
    tiny_pipeline: Path, tmp_path: Path, optimizer: str
) -> None:
    settings = {"name": optimizer, "lr": 1.0 if optimizer == "prodigy" else 1e-3}
    long = tiny_cfm(tiny_pipeline, optim=settings, lora={"rank": 32})
    # What is due at the last update is due in the longer run too, so that both write the same.
    short = replace(long, run=replace(long.run, updates=2, sample_every_updates=2))
    long = replace(long, run=replace(long.run, sample_every_updates=2))
    train_cfm(long, tmp_path / "whole", data=toy_data())
    train_cfm(short, tmp_path / "parts", data=toy_data())
    train_cfm(long, tmp_path / "parts", data=toy_data(), resume=True)
    equal_runs(tmp_path / "parts", tmp_path / "whole")
    weights = load_file(tmp_path / "whole" / "lora" / "last.safetensors")
    assert any(value.any() for name, value in weights.items() if "lora_B" in name)


KILLED_RUN = """
import sys
from pathlib import Path
from tests.training.tiny_cfm import tiny_cfm, toy_data
from divrl_core.training.cfm_loop import train_cfm
train_cfm(tiny_cfm(Path(sys.argv[1])), Path(sys.argv[2]), data=toy_data())
"""


def test_a_run_killed_without_warning_and_resumed_equals_the_unbroken_run(
    tiny_pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    output, root = tmp_path / "run", Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", KILLED_RUN, str(tiny_pipeline), str(output)]
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
    metrics = output / "metrics.jsonl"
    try:
        while process.poll() is None:
            if metrics.exists() and metrics.read_text().count('"train"') >= 2:
                break
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    train_cfm(tiny_cfm(tiny_pipeline), output, resume=True, data=toy_data())
    equal_runs(output, unbroken)
