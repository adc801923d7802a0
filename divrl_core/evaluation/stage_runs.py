"""A training run as a step of something larger: begun, gone on with, or found finished."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..config import from_mapping, to_mapping
from ..config_cfm import CfmConfig
from ..settings import as_recorded
from ..training.cfm_loop import train_cfm
from ..training.checkpoint import check_same_settings
from ..training.data import RunData
from ..training.grpo_loop import train
from ..training.run_folder import RunSettings
from .report import write_report
from .runs import is_run_folder, read_rows, read_run

logger = logging.getLogger("divrl")


def run_stage(config: RunSettings, folder: Path, data: RunData | None = None) -> Path:
    """Trains into a run folder whatever is not done yet, writes its report, and returns its best LoRA file.

    `data` replaces the references that the settings of explore and suppress name. Raises ValueError when the folder
    holds a finished run of other settings; threads, and the path of what it started from, may differ.
    """
    best = folder / "lora" / "best.safetensors"
    if is_finished(config, folder):
        saved, now = (
            from_mapping(type(config), values, str(folder))
            for values in (as_recorded(type(config), read_run(folder).settings), to_mapping(config))
        )
        check_same_settings(*(to_mapping(_lasting(one)) for one in (saved, now)), done_updates=0)
        logger.info("%s is finished: %s", config.stage, best)
    else:
        logger.info("%s: %d updates into %s", config.stage, config.run.updates, folder)
        if isinstance(config, CfmConfig):
            return train_cfm(config, folder, resume=is_run_folder(folder)).best_lora
        best = train(config, folder, resume=is_run_folder(folder), data=data).best_lora
    if not isinstance(config, CfmConfig):
        write_report([folder], folder / "report.html")
    return best


def anywhere(config: RunSettings) -> RunSettings:
    """The settings without what changes no result: threads, and the folder of encoded pictures."""
    if isinstance(config, CfmConfig):
        return replace(config, run=replace(config.run, threads=None, cache=None))
    return replace(config, run=replace(config.run, threads=None))


def _lasting(config: RunSettings) -> RunSettings:
    """The settings without what may differ between two computers; `init_lora` only where there is one."""
    kept = anywhere(config)
    origin = None if kept.run.init_lora is None else "its start"
    return replace(kept, run=replace(kept.run, init_lora=origin))  # type: ignore[arg-type]


def is_finished(config: RunSettings, folder: Path) -> bool:
    """Whether the last update's held-out row is written, which happens after everything else of that
    update.
    """
    rows, _ = read_rows(folder / "metrics.jsonl")
    is_measured = any(row.get("kind") == "heldout" and row["update"] == config.run.updates for row in rows)
    return is_measured and (folder / "lora" / "best.safetensors").is_file()
