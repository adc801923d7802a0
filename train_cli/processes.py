"""`--processes N`: the same command in N processes of this machine, watched by this one.

Each learns from its share of every update. When one ends badly the others are stopped, and what went wrong is told
once; a run's last checkpoint is whole whenever that happens.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import click
from click.core import ParameterSource

ERROR_FILE = "DIVRL_ERROR_FILE"  # where a worker writes its one line, for this process to tell it once
IS_LOST = "another process of this run is gone"  # how those begin who only noticed
NOTICE_SECONDS = 1.0  # for the others to notice that one is gone
GRACE_SECONDS = 30.0  # for them to come to their end, before they are ended
INTERRUPTED = 130
SHOWN_LINES = 15

# What accelerate reads to shard the frozen base over the processes (FSDP2).
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_AUTO_WRAP_POLICY": "NO_WRAP",
}


@dataclass(frozen=True)
class Worker:
    """One process of the run: its number, itself, where its line and its output go (None: to the terminal)."""

    rank: int
    process: subprocess.Popen[Any]
    error_file: Path
    log: Path | None


def is_worker() -> bool:
    """Whether this process is one of several already, started by us, accelerate or torchrun."""
    return "RANK" in os.environ or "LOCAL_RANK" in os.environ


def is_first() -> bool:
    """Whether this process is the one that tells and writes."""
    return os.environ.get("RANK", "0") == "0"


def check_processes(count: int) -> None:
    """Raises ValueError when so many processes cannot run here: each needs a GPU of its own, if there are any."""
    import torch

    cards = torch.cuda.device_count()
    if cards and count > cards and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true":
        raise ValueError(
            f"--processes {count}: there are {cards} GPUs, and each process takes one; give at most {cards}"
        )


def arguments_of(context: click.Context, *, without: Collection[str]) -> list[str]:
    """The command and its options as they were given, but for those named in `without`: words for another process."""
    words = [str(context.info_name)]
    for option in context.command.params:
        name = str(option.name)
        if name in without or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value, flag = context.params[name], option.opts[0]
        if isinstance(value, bool):
            words += [flag] if value else []
        else:
            words += [word for one in (value if option.multiple else [value]) for word in (flag, str(one))]
    return words


def run_in_processes(arguments: Sequence[str], count: int, *, is_sharded: bool, go_on: str) -> int:
    """Run `divrl-train ARGUMENTS` in `count` processes to the end; the exit code.

    `go_on`: the command that resumes the run, named when a process is lost.
    """
    workers: list[Worker] = []
    with tempfile.TemporaryDirectory(prefix="divrl-") as folder, _Signals(workers):
        try:
            _start(workers, arguments, count, Path(folder), is_sharded)
            ended_badly = _wait(workers)
        finally:
            _stop(workers)
        return _verdict(workers, ended_badly, go_on)


def _start(
    workers: list[Worker], arguments: Sequence[str], count: int, folder: Path, is_sharded: bool
) -> None:
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        # Each process has its share of the cores, or they would wait for each other.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
        **_cpu_if_alone(),
        **(SHARDED if is_sharded else {}),
    }
    command = [
        sys.executable,
        "-c",
        "from train_cli.main import cli; cli(prog_name='divrl-train')",
        *arguments,
    ]
    for rank in range(count):
        error_file, log = folder / f"error-{rank}", folder / f"log-{rank}" if rank else None
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), ERROR_FILE: str(error_file)}
        stream: IO[bytes] | None = log.open("wb") if log else None
        try:
            process = subprocess.Popen(
                command,
                env={**os.environ, **shared, **own},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        finally:
            if stream is not None:
                stream.close()
        workers.append(Worker(rank, process, error_file, log))


def _cpu_if_alone() -> dict[str, str]:
    import torch

    return {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class _Signals:
    """Inside this block Ctrl-C and polite kills are handed on to the workers, who may have got them too."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    def __enter__(self) -> None:
        self._before = {
            signal.SIGINT: signal.signal(signal.SIGINT, self._hand_on),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._hand_on),
        }

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hand_on(self, number: int, frame: FrameType | None) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.send_signal(number)


def _wait(workers: Sequence[Worker]) -> list[Worker]:
    """Wait until all have ended, well or interrupted, or one has not: those that ended badly by themselves.

    After Ctrl-C the main process may save for minutes; it is given all the time it takes.
    """
    told = [0] * len(workers)
    while True:
        _tell_warnings(workers, told)
        if any(worker.process.poll() not in (None, 0, INTERRUPTED) for worker in workers):
            time.sleep(NOTICE_SECONDS)
            return [worker for worker in workers if worker.process.poll() not in (None, 0, INTERRUPTED)]
        if all(worker.process.poll() is not None for worker in workers):
            return []
        time.sleep(0.1)


def _tell_warnings(workers: Sequence[Worker], told: list[int]) -> None:
    """Hand on the warnings of the workers whose output goes to a file; `told`: how far each file was read."""
    for place, worker in enumerate(workers):
        if worker.log is None or not worker.log.is_file():
            continue
        with worker.log.open("rb") as stream:
            stream.seek(told[place])
            whole, _, _ = stream.read().rpartition(b"\n")
        told[place] += len(whole) + 1 if whole else 0
        for line in whole.decode("utf-8", errors="replace").splitlines():
            if line.startswith("warning: "):
                click.echo(f"process {worker.rank}: {line}", err=True)


def _stop(workers: Sequence[Worker]) -> None:
    """Let the others come to their end: they notice the loss, or are asked to stop, or are stopped."""
    deadline = time.monotonic() + GRACE_SECONDS
    asked_at = time.monotonic() + GRACE_SECONDS / 6
    is_asked = False
    while any(worker.process.poll() is None for worker in workers):
        now = time.monotonic()
        if now > deadline:
            for worker in workers:
                worker.process.kill()
            deadline = now + GRACE_SECONDS
        elif now > asked_at and not is_asked:
            is_asked = True
            for worker in workers:
                if worker.process.poll() is None:
                    worker.process.terminate()
        time.sleep(0.1)


def _verdict(workers: Sequence[Worker], ended_badly: Sequence[Worker], go_on: str) -> int:
    """Say once what went wrong, and give the exit code."""
    if not ended_badly:  # interrupted: the main process has named the command that goes on
        return INTERRUPTED if any(worker.process.returncode for worker in workers) else 0
    lines = [line for line in dict.fromkeys(_line(worker.error_file) for worker in workers) if line]
    told = [line for line in lines if IS_LOST not in line]
    is_killed = any(worker.process.returncode < 0 for worker in ended_badly)
    for line in told or ([] if is_killed else lines):
        click.echo(line, err=True)
    if not told and (is_killed or not lines):
        causes = [worker for worker in ended_badly if not _line(worker.error_file)]
        click.echo(_loss((causes or ended_badly)[0], len(workers), go_on), err=True)
    return 2


def _loss(failed: Worker, count: int, go_on: str) -> str:
    code = failed.process.returncode
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    tail = ""
    if failed.log is not None:
        lines = failed.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        tail = "".join(f"\n  {line}" for line in lines[-SHOWN_LINES:])
    return (
        f"divrl-train: process {failed.rank} of {count} {how}, the others were stopped; the last checkpoint is whole, "
        f"go on with: {go_on}{tail}"
    )


def _line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
