"""A training run as a step of something larger: begun, gone on with, or found finished."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..config import TrainConfig, from_mapping, to_mapping
from ..training.checkpoint import check_same_settings
from ..training.data import RunData
from ..training.grpo_loop import train
from .report import write_report
from .runs import is_run_folder, read_rows, read_run

logger = logging.getLogger("divrl")


def run_stage(config: TrainConfig, folder: Path, data: RunData | None = None) -> Path:
    """Trains into a run folder whatever is not done yet, writes its report, and returns its best LoRA file.

    `data` replaces the references that the settings name. Raises ValueError when the folder holds a finished run of
    other settings; threads, and the path of what it started from, may differ.
    """
    best = folder / "lora" / "best.safetensors"
    if is_finished(config, folder):
        saved, now = (
            from_mapping(TrainConfig, values, str(folder))
            for values in (read_run(folder).settings, to_mapping(config))
        )
        check_same_settings(*(to_mapping(_lasting(one)) for one in (saved, now)), done_updates=0)
        logger.info("%s is finished: %s", config.stage, best)
    else:
        logger.info("%s: %d updates into %s", config.stage, config.run.updates, folder)
        best = train(config, folder, resume=is_run_folder(folder), data=data).best_lora
    write_report([folder], folder / "report.html")
    return best


def _lasting(config: TrainConfig) -> TrainConfig:
    """The settings without what may differ between two computers; `init_lora` only where there is one."""
    origin = None if config.run.init_lora is None else "its start"
    return replace(config, run=replace(config.run, threads=None, init_lora=origin))


def is_finished(config: TrainConfig, folder: Path) -> bool:
    """Whether the last update's held-out row is written, which happens after everything else of that
    update.
    """
    rows, _ = read_rows(folder / "metrics.jsonl")
    is_measured = any(row.get("kind") == "heldout" and row["update"] == config.run.updates for row in rows)
    return is_measured and (folder / "lora" / "best.safetensors").is_file()
