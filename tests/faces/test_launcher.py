"""How the processes of a run are watched: real processes, small ones in place of training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from train_cli import processes
from train_cli.processes import IS_LOST, Worker


def worker(folder: Path, rank: int, code: str) -> Worker:
    log = folder / f"log-{rank}" if rank else None
    error_file = folder / f"error-{rank}"
    stream = log.open("wb") if log else subprocess.DEVNULL
    program = (
        f"from pathlib import Path; import sys, time, os, signal; ERROR = Path({str(error_file)!r})\n{code}"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=stream, stderr=stream)
    return Worker(rank, process, error_file, log)


def watched(workers: list[Worker]) -> int:
    try:
        ended_badly = processes._wait(workers)
    finally:
        processes._stop(workers)
    return processes._verdict(workers, ended_badly, "divrl-train explore --resume")


def test_after_ctrl_c_the_main_process_is_given_the_time_to_save(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    slow = f"time.sleep(8); Path({str(saved)!r}).touch(); sys.exit(130)"
    assert watched([worker(tmp_path, 0, slow), worker(tmp_path, 1, "sys.exit(130)")]) == 130
    assert saved.exists()


def test_a_run_that_ends_well_ends_with_zero(tmp_path: Path) -> None:
    assert watched([worker(tmp_path, 0, "time.sleep(0.3)"), worker(tmp_path, 1, "pass")]) == 0


def test_a_killed_worker_is_named_with_the_command_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noticed = f"time.sleep(0.3); ERROR.write_text('divrl-train: {IS_LOST}'); sys.exit(2)"
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    assert watched([worker(tmp_path, 0, noticed), worker(tmp_path, 1, killed)]) == 2
    said = capsys.readouterr().err
    assert (
        "process 1 of 2 was killed by SIGKILL" in said and "go on with: divrl-train explore --resume" in said
    )
    assert IS_LOST not in said


def test_a_loss_that_nobody_died_of_is_told_in_its_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noticed = f"ERROR.write_text('divrl-train: {IS_LOST} (NCCL communicator was aborted)'); sys.exit(2)"
    assert watched([worker(tmp_path, 0, noticed), worker(tmp_path, 1, noticed)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [f"divrl-train: {IS_LOST} (NCCL communicator was aborted)"]


def test_a_mistake_of_all_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mistake = "ERROR.write_text('divrl-train: lora.rank must be smaller'); sys.exit(2)"
    assert watched([worker(tmp_path, rank, mistake) for rank in range(3)]) == 2
    assert capsys.readouterr().err == "divrl-train: lora.rank must be smaller\n"


def test_warnings_of_all_processes_are_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warns = "print('warning: the server did not answer', flush=True); print('chatter'); time.sleep(0.5)"
    assert watched([worker(tmp_path, 0, "time.sleep(1)"), worker(tmp_path, 1, warns)]) == 0
    assert capsys.readouterr().err == "process 1: warning: the server did not answer\n"
