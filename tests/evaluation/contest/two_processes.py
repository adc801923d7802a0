"""The same work in several real processes of this machine, as `--processes` starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def run_code(code: str, *, processes: int = 1, timeout_s: float = 240) -> list[int]:
    """Run Python code in so many processes that know of each other; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    counts = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if processes > 1:
        environment |= shared | counts
    started = []
    for rank in range(processes):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code],
                env={**environment, **own},
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("DIVRL_TRACEBACK") else subprocess.DEVNULL,
            )
        )
    try:
        return [process.wait(timeout_s) for process in started]
    finally:
        for process in started:
            process.kill()
