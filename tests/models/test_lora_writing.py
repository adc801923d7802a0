"""A LoRA file that is killed while it is written, and who may read one: in processes of their own."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

WRITE = """
import os, resource, signal, sys
from pathlib import Path
import torch
from divrl_core.models.lora_export import write_folded
os.umask(0o022)
if sys.argv[2] == "killed":  # by the system, at the first byte past this size
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
module = "transformer.transformer_blocks.0.attn.to_q"
weights = {f"{module}.lora_A.weight": torch.ones(8, 4000), f"{module}.lora_B.weight": torch.ones(4000, 8)}
write_folded(Path(sys.argv[1]), weights, rank=8, alpha=8)
"""


def write(path: Path, how: str) -> int:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", WRITE, str(path), how]
    return subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=False
    ).returncode


def test_a_kill_in_the_middle_leaves_one_file_of_a_known_name_that_the_next_writing_takes_away(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pose.safetensors"
    assert write(path, "killed") == -signal.SIGXFSZ
    assert [left.name for left in tmp_path.iterdir()] == ["pose.safetensors.tmp"]
    assert write(path, "whole") == 0
    assert [left.name for left in tmp_path.iterdir()] == ["pose.safetensors"]


def test_a_lora_can_be_read_by_whoever_the_umask_lets_read(tmp_path: Path) -> None:
    path = tmp_path / "pose.safetensors"
    assert write(path, "whole") == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
