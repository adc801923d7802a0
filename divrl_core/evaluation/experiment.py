"""The experiment: base, explore, suppress and their rivals, over several seeds, each cell done once.

A cell is one model of one seed, judged on the same held-out figures and noise as the others of its seed. Its file holds
every picture's scores, the training curve, and all settings and files that it follows from; where these are the same,
the cell is not done again, wherever it was made.

CELLS/seed-0/explore.json            one cell
OUTPUT/seed-0/explore/               its run folder
OUTPUT/seed-0/pictures/, report.html base, explore and suppress on the same noise
OUTPUT/experiment.md, *.png, *.jpg   tables, frontier, curves, sheet
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config import TrainConfig, to_mapping
from ..config_cfm import CfmConfig
from ..models.model_names import POCKET_FOLDER
from ..settings import flat, list_settings
from ..training.data import RunData
from ..training.files import write_atomic_json
from ..training.references import ReferenceSet
from .comparison import sheet_of, write_comparisons, write_sheet
from .demo_pictures import DemoModels, gather_comparisons
from .experiment_plan import ExperimentPlan
from .experiment_report import write_experiment_report
from .experiment_results import read_cell
from .heldout import HeldOut
from .made_with import follows_alike, hashed, model_hashes
from .report import write_report
from .runs import read_rows
from .stage_runs import anywhere, run_stage

logger = logging.getLogger("divrl")

DIGITS = 5  # of every measured number in a cell
CURVE = (
    "update",
    "kind",
    "reward",
    "nssm",
    "vsm",
    "clean_share",
    "pose_change_deg",
    "selection",
    "model_evaluations",
    "cpu_seconds",
    "gate_rate",
    "validation_loss",
    "samples",
    "turned_share",
    "new_pose_share",
)


@dataclass(frozen=True)
class Sources:
    """What replaces the references that the plan names: of training, and of the last evaluation."""

    data: RunData | None = None
    last_references: ReferenceSet | None = None


def run_experiment(
    output: Path,
    plans: Sequence[ExperimentPlan],
    *,
    cells: Path | None = None,
    minutes: float | None = None,
    model: Path = POCKET_FOLDER,
    sources: Sources | None = None,
    write: Callable[[Path, Path], Path | None] = write_experiment_report,
) -> Path | None:
    """Does every cell that is not done yet, seed by seed, and writes tables and figures of all that are.

    Args:
        output: folder of runs and results; anything in it is gone on with.
        plans: one a seed.
        cells: folder of finished cells; None = OUTPUT/cells.
        minutes: begin no further cell after so long; None = never stop.
        model: the pipeline's folder, whose files' hashes the cells follow from.
        sources: other references than those that the plans name.
        write: writes the page of results from (cells, output).

    Returns the written page, or None when no cell is done yet.
    """
    sources = sources or Sources()
    cells = _cells_in(output, cells)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    hashes = model_hashes(model)
    for plan in plans:
        made = {name: made_with(plan, name, hashes) for name in plan.names}
        missing = [name for name in plan.names if not is_done(cell_path(cells, plan, name), made[name])]
        models: DemoModels | None = None
        judge: TrainConfig | None = None
        for name in missing:
            if deadline is not None and time.monotonic() > deadline:
                logger.info("time is over; the same command goes on from here")
                return write(cells, output)
            folder = output / f"seed-{plan.seed}"
            lora = _train(plan, name, folder, sources.data)
            if models is None or plan.judge(name) != judge:
                judge = plan.judge(name)
                models = DemoModels(judge, plan.evaluation, folder, sources.last_references)
                models.write_references(folder / "pictures" / "references")
            models.load(lora)
            if name in plan.shown:
                models.write_comparison(name, folder / "comparisons")
            found = models.evaluate(name, folder / "pictures")
            write_atomic_json(cell_path(cells, plan, name), _cell(plan, name, found, folder, made[name]))
            logger.info("seed %d, %s: %s", plan.seed, name, _in_short(found.summary))
        _write_pages(plan, output / f"seed-{plan.seed}", cells)
    return write(cells, output)


def missing_cells(output: Path, plans: Sequence[ExperimentPlan], cells: Path | None) -> dict[int, list[str]]:
    """The models that are not done yet, by seed; nothing is written. Raises ValueError as `run_experiment`."""
    folder = _cells_in(output, cells)
    hashes = model_hashes(POCKET_FOLDER)
    return {
        plan.seed: [
            name
            for name in plan.names
            if not is_done(cell_path(folder, plan, name), made_with(plan, name, hashes))
        ]
        for plan in plans
    }


def _cells_in(output: Path, cells: Path | None) -> Path:
    """The folder of finished cells. Raises ValueError where it is a file."""
    folder = cells or output / "cells"
    if folder.exists() and not folder.is_dir():
        raise ValueError(
            f"--cells {folder} is a file; name a folder, to be made or with an experiment's cells in it"
        )
    return folder


def cell_path(cells: Path, plan: ExperimentPlan, name: str) -> Path:
    """The file of one model of one seed."""
    return cells / f"seed-{plan.seed}" / f"{name}.json"


def made_with(plan: ExperimentPlan, name: str, model: Mapping[str, str]) -> dict[str, Any]:
    """What a cell follows from: the settings of every run behind it, of its evaluation, and the model's hashes."""
    parts: dict[str, Any] = {}
    for arm in plan.line_of(name):
        parts |= flat(to_mapping(anywhere(arm.config)), arm.name)
    judge = to_mapping(plan.judge(name))
    parts |= flat({"model": judge["model"], "backbone": judge["reward"]["backbone"]}, "judged")
    parts |= flat(vars(plan.evaluation), "evaluation")
    return hashed(parts | dict(model))


def is_done(path: Path, made: Mapping[str, Any]) -> bool:
    """Whether the cell is there and follows from the same settings and model."""
    if not path.is_file():
        return False
    then = {row.name: row.formerly for kind in (CfmConfig, TrainConfig) for row in list_settings(kind)}
    return follows_alike(read_cell(path)["made_with"]["parts"], made["parts"], then)


def _train(plan: ExperimentPlan, name: str, folder: Path, data: RunData | None) -> Path | None:
    """The best LoRA of a model, trained with all that it starts from where that is not done; None for the base."""
    lora = None
    for arm in plan.line_of(name):
        config = arm.config
        if isinstance(config, CfmConfig):
            config = replace(config, run=replace(config.run, cache=str(folder / "cache")))
        if lora is not None:
            config = replace(config, run=replace(config.run, init_lora=str(lora)))  # type: ignore[arg-type]
        lora = run_stage(config, folder / arm.name, data)
    return lora


def _cell(
    plan: ExperimentPlan, name: str, found: HeldOut, folder: Path, made: Mapping[str, Any]
) -> dict[str, Any]:
    curve = []
    for arm in plan.line_of(name):
        rows, _ = read_rows(folder / arm.name / "metrics.jsonl")
        curve += [
            {"arm": arm.name, **{key: row[key] for key in CURVE if key in row}}
            for row in rows
            if row.get("kind") == "heldout" or (row.get("kind") == "train" and "reward" in row)
        ]
    measured = _rounded({**found.as_json(), "curve": curve})
    return {"model": name, "seed": plan.seed, "made_with": made, **measured}


def _rounded(value: Any) -> Any:
    """Measured numbers to `DIGITS` places, which is far below their error, to keep the files small."""
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _write_pages(plan: ExperimentPlan, folder: Path, cells: Path) -> None:
    """The sheet and the report of the models that are shown, where their pictures were made."""
    found = {name: cells / folder.name / f"{name}.json" for name in plan.shown}
    pictures = [folder / "comparisons" / f"{name}.json" for name in plan.shown]
    if not all(path.is_file() for path in (*found.values(), *pictures)):
        return
    for name, path in found.items():
        cell = read_cell(path)
        kept = {key: cell[key] for key in ("settings", "summary", "samples")}
        write_atomic_json(folder / "heldout" / f"{name}.json", kept)
    comparisons = gather_comparisons(folder / "comparisons", plan.shown)
    write_comparisons(folder / "comparisons", comparisons)
    sheet = sheet_of(
        comparisons[: plan.sheet_references], title=f"Same references, same seeds: {', '.join(plan.shown)}"
    )
    write_sheet(folder / "sheet.jpg", sheet)
    if plan.has_report:
        write_report([folder], folder / "report.html", cells=cells)


def _in_short(summary: Mapping[str, Any]) -> str:
    names = ("nssm", "vsm", "clean_share", "pose_change_deg")
    return ", ".join(f"{name} {summary[name]:.3f}" for name in names if name in summary)
