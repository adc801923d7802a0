"""How several processes of one run end: one dies, Ctrl-C, a mistake of all; real ones over gloo, and no hang."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from .process_runs import PATIENCE_S, ROOT, command, done, run, small_run, state_of


@pytest.fixture(scope="module")
def given(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return small_run(tmp_path_factory.mktemp("given"), tiny_pipeline)


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


def test_a_quantised_base_is_not_spread(given: dict[str, object], tmp_path: Path) -> None:
    words = command(tmp_path / "run", "--processes", "2", "--sharded", **given, model__quantization="fp8")
    result = run(words)
    assert result.returncode == 2
    assert "cannot have model.quantization=fp8 too" in result.stderr


def test_sharding_one_process_is_refused(given: dict[str, object], tmp_path: Path) -> None:
    result = run(command(tmp_path / "run", "--sharded", **given))
    assert result.returncode == 2
    assert "--sharded needs --processes 2 or more" in result.stderr
