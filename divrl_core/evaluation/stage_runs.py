"""A training run as a step of something larger: begun, gone on with, or found finished."""

from __future__ import annotations

import logging
from pathlib import Path

from ..config import TrainConfig
from ..training.data import RunData
from ..training.grpo_loop import train
from .report import write_report
from .runs import is_run_folder, read_rows

logger = logging.getLogger("divrl")


def run_stage(config: TrainConfig, folder: Path, data: RunData | None = None) -> Path:
    """Trains into a run folder whatever is not done yet, writes its report, and returns its best LoRA file.

    `data` replaces the references that the settings name.
    """
    best = folder / "lora" / "best.safetensors"
    if is_finished(config, folder):
        logger.info("%s is finished: %s", config.stage, best)
    else:
        logger.info("%s: %d updates into %s", config.stage, config.run.updates, folder)
        best = train(config, folder, resume=is_run_folder(folder), data=data).best_lora
    write_report([folder], folder / "report.html")
    return best


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether the last update's held-out row is written, which happens after everything else of that
    update.
    """
    rows, _ = read_rows(folder / "metrics.jsonl")
    is_measured = any(row.get("kind") == "heldout" and row["update"] == config.run.updates for row in rows)
    return is_measured and (folder / "lora" / "best.safetensors").is_file()
