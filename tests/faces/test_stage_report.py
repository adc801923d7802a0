"""explore and suppress leave a report in the run folder, however they end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from train_cli.main import cli


@pytest.fixture(autouse=True)
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divrl_core.training.data.POCKET_TRAIN_REFERENCES", 2)


def train_tiny(stage: list[str], pipeline: Path, output: Path, updates: int) -> Result:
    settings = {
        "model.path": pipeline,
        "model.image_size_px": 32,
        "model.gradient_checkpointing": False,
        "lora.rank": 2,
        "data.held_out_references": 2,
        "data.prompts_per_reference": 1,
        "reward.kind": "brightness",
        "rollout.steps": 2,
        "rollout.stochastic_steps": [0],
        "grpo.group_size": 2,
        "grpo.groups_per_update": 1,
        "grpo.micro_batch": 2,
        "grpo.min_valid_fraction": 0.0,
        "run.updates": updates,
        "run.eval_every_updates": updates,
        "run.sample_every_updates": updates,
        "run.save_every_updates": updates,
        "run.eval_images": 2,
        "run.eval_steps": 1,
        "run.sample_steps": 1,
        "run.sample_references": 1,
        "run.sample_seeds": [0],
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return CliRunner().invoke(cli, [*stage, *words, "--output", str(output)], prog_name="divrl-train")


def test_explore_and_the_suppress_run_made_from_it_each_end_with_a_report(tiny_pipeline, tmp_path):
    explore, suppress = tmp_path / "explore", tmp_path / "suppress"
    result = train_tiny(["explore"], tiny_pipeline, explore, updates=1)
    assert result.exit_code == 0, result.output
    assert f"report: {explore / 'report.html'}" in result.output
    assert "1 updates, 2 pictures" in (explore / "report.html").read_text(encoding="utf-8")
    result = train_tiny(["suppress", "--from", str(explore)], tiny_pipeline, suppress, updates=1)
    assert result.exit_code == 0, result.output
    page = (suppress / "report.html").read_text(encoding="utf-8")
    assert "the run it started from was not found" not in page, "explore is in it"


def test_a_run_stopped_by_ctrl_c_leaves_a_report_of_what_it_has(tiny_pipeline, tmp_path):
    output = tmp_path / "explore"

    def stop() -> None:
        metrics, end = output / "metrics.jsonl", time.monotonic() + 60
        while time.monotonic() < end:
            if metrics.is_file() and '"train"' in metrics.read_text(encoding="utf-8"):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    result = train_tiny(["explore"], tiny_pipeline, output, updates=2000)
    watcher.join()
    assert result.exit_code == 130, result.output
    assert "stopped; go on with:" in result.output
    assert "stopped, or still running, at update" in (output / "report.html").read_text(encoding="utf-8")
