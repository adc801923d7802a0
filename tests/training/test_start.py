"""What a run refuses before it touches its folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

SEVERAL = """
import sys
from divrl_core.config import TrainConfig
from divrl_core.training.grpo_loop import train
try:
    train(TrainConfig.explore(), sys.argv[1])
except ValueError as error:
    print(error)
"""


def test_several_processes_are_refused_before_the_run_folder_is_made(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    root = Path(__file__).parents[2]
    shared = {
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "ACCELERATE_USE_CPU": "true",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SEVERAL, str(tmp_path / "run")],
            cwd=root,
            env=os.environ | shared | {"PYTHONPATH": str(root), "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        said = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for out, err in said:
        assert "a run is one process as yet, got 2" in out, err
    assert not (tmp_path / "run").exists()
