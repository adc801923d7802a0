"""Runs of `divrl-train` in interpreters of their own, small ones, and how two of them compare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
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


def small_run(folder: Path, tiny_pipeline: Path) -> dict[str, object]:
    """The settings of a small run: a pipeline, and a folder of eight pictures whose middle is the object."""
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
        for name in ("reward", "kl", "grad_norm", "ratio_mean", "samples", "invalid", "model_evaluations"):
            assert row[name] == pytest.approx(again[name], rel=1e-4, abs=1e-7), name
    held_out = [json.loads(path.read_text()) for path in sorted(first.glob("heldout/*.json"))]
    again = [json.loads(path.read_text()) for path in sorted(second.glob("heldout/*.json"))]
    assert len(held_out) == len(again) > 0
    for before, after in zip(held_out, again, strict=True):
        names = [[(s["reference_id"], s["sample"]) for s in side["samples"]] for side in (before, after)]
        assert names[0] == names[1]
        assert before["summary"]["selection"] == pytest.approx(after["summary"]["selection"], abs=1e-3)
