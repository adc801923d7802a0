"""report.html: one file that needs no network, made from run folders or from a demo.

It says in words what moved and by how much, then shows the pictures, the table, the plane and the curves,
and last how everything was measured. What is missing in a folder is left out of the page or named in it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from ..config import TrainConfig
from ..settings import flat, list_settings
from ..training.files import write_atomic_text
from .comparison import read_comparisons
from .experiment_charts import frontier_svg
from .experiment_results import Results
from .paired import is_defined
from .picture_cards import picture_cards
from .report_charts import CURVES, HEALTH, cloud, line_charts, plane, stage_curve
from .results import (
    ModelResult,
    compare,
    consistency_cutoff,
    measures_of,
    results_of_demo,
    results_of_runs,
)
from .runs import RunRecord, find_parent, is_demo_folder, read_run, setting_of
from .sheets import short_number
from .words import DIGITS, NAMES, claims, duration, findings, headline, number, signed, with_error

NOTHING = "\u2013"


@dataclass(frozen=True)
class Sheet:
    """A contact sheet of a run, ready for the page."""

    caption: str
    source: str


def write_report(runs: Sequence[Path], output: Path, *, cells: Path | None = None) -> Path:
    """Writes the report of a run, of several stages in order, or of a demo folder, and returns its path.

    `cells`: an experiment's finished cells, for the frontier of all its models.
    A suppress run alone brings its parent along where `run.init_lora` leads to it. Raises ValueError or
    FileNotFoundError when a folder is no run, has no metrics yet, or cannot be read.
    """
    return write_atomic_text(output, report_page(runs, cells=cells))


def report_page(runs: Sequence[Path], *, cells: Path | None = None) -> str:
    """The page that `write_report` writes. Raises as it does."""
    if not runs:
        raise ValueError("a report needs at least one run folder, got none; give runs/NAME")
    demo = runs[0] if len(runs) == 1 and is_demo_folder(runs[0]) else None
    records = _records(runs, demo)
    results = (results_of_demo(demo) if demo else []) or results_of_runs(records)
    template = _environment().get_template("report.html.j2")
    page: str = template.render(_context(records, results, demo) | {"frontier": _frontier(cells)})
    return page


def _records(runs: Sequence[Path], demo: Path | None) -> list[RunRecord]:
    if demo is not None:
        return [read_run(demo / "explore"), read_run(demo / "suppress")]
    records = [read_run(path) for path in runs]
    for record in records:
        if record.stage == "cfm":
            raise ValueError(
                f"{record.path} is a cfm run, which has no report: see its loss.png and samples/"
            )
    if len(records) == 1 and records[0].stage == "suppress":
        parent = find_parent(records[0])
        if parent is not None:
            records.insert(0, read_run(parent))
    return records


def _context(
    records: Sequence[RunRecord], results: Sequence[ModelResult], demo: Path | None
) -> dict[str, Any]:
    differences = compare(results)
    cutoff = consistency_cutoff(results)
    comparisons = read_comparisons(demo / "comparisons") if demo else []
    stages = [stage_curve(record, results) for record in records]
    cards, orders = picture_cards(demo, results) if demo else ([], ())
    return {
        "title": (demo or records[-1].path).resolve().name,
        "headline": headline(results, differences),
        "findings": findings(results, differences) if results else [],
        "facts": _facts(records, results),
        "results": results,
        "claims": claims(differences),
        "differences": differences,
        "measures": measures_of(results),
        "digits": DIGITS,
        "names": NAMES,
        "cutoff": cutoff,
        "judge": _judge(results),
        "comparisons": comparisons,
        "cards": cards,
        "orders": orders,
        "sheets": [] if comparisons else _sheets(records),
        "plane": plane(results, cutoff),
        "undefined_on_plane": [
            r.name for r in results if not is_defined(r.row.get("diversity_over_consistency"))
        ],
        "cloud": cloud(results, cutoff),
        "curves": line_charts(stages, CURVES, 230),
        "health": line_charts(stages, HEALTH, 190),
        "stages": records,
        "settings": _settings_table(records),
        "evaluation": _evaluation_settings(results),
        "warnings": _warnings(records, results, differences, is_demo=demo is not None),
    }


def _frontier(cells: Path | None) -> Markup | None:
    """Every model of an experiment in two planes; None without any finished cell."""
    results = None if cells is None else Results.read(cells)
    return Markup(frontier_svg(results)) if results is not None and results.models else None


def _facts(records: Sequence[RunRecord], results: Sequence[ModelResult]) -> list[tuple[str, str]]:
    """The scale of the run in a few words: what a reader asks first."""
    facts = []
    for record in records:
        samples = sum(int(row.get("samples") or 0) for row in record.train)
        seconds = sum(sum((row.get("seconds") or {}).values()) for row in record.train)
        planned = record.planned_updates
        of_plan = f" of {planned}" if planned and planned != record.last_update else ""
        algorithm = (
            setting_of(record.settings, "algorithm") or "grpo"
        )  # of a run from before there was a choice
        by = "" if algorithm == "grpo" else f" by {algorithm}"
        facts.append(
            (
                record.stage,
                f"{record.last_update}{of_plan} updates{by}, {samples:,} pictures, {duration(seconds)}",
            )
        )
    if results:
        references = {sample.get("reference_id") for sample in results[-1].samples}
        across = f" of {len(references)} references" if references else ""
        facts.append(
            ("held out", f"{int(results[-1].row.get('n') or 0)} pictures a model{across}, none trained on")
        )
    if records:
        facts.append(("model", _model_name(records[0])))
    return facts


def _model_name(record: RunRecord) -> str:
    """The pipeline as a person names it: a hub id or pocket as it is, a folder by its last part."""
    name = str(setting_of(record.settings, "model.path") or "unknown")
    return Path(name).name if Path(name).is_absolute() else name


def _judge(results: Sequence[ModelResult]) -> str:
    """The backbone behind every figure, the sampling steps of the pictures, and where the masks are from."""
    for result in results:
        if result.settings.get("backbone"):
            masks = result.settings.get("masks")
            steps = f"pictures in {result.row.get('steps')} deterministic steps"
            return f"{result.settings['backbone']}; {steps}" + (f"; masks: {masks}" if masks else "")
    return ""


def _sheets(records: Sequence[RunRecord]) -> list[Sheet]:
    """The first contact sheet and the last of each run: the same references and seeds, before and after."""
    sheets = []
    for index, record in enumerate(records):
        # A later stage starts where the one before ended: its first sheet would show the same pictures again.
        first = list(record.sheets)[:1] if index == 0 else []
        for update in dict.fromkeys([*first, *list(record.sheets)[-1:]]):
            when = "before the first update" if update == 0 else f"after update {update}"
            sheets.append(Sheet(f"{record.stage}, {when}", _inlined(record.sheets[update])))
    return sheets


def _settings_table(records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Every setting with its value in each stage, and whether any stage departs from the default."""
    rows = []
    for setting in list_settings(TrainConfig):
        default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
        # What was no setting yet when a run was made had its default.
        values = [flat(record.settings).get(setting.name, default) for record in records]
        rows.append(
            {
                "name": setting.name,
                "values": [NOTHING if value is None else str(value) for value in values],
                "is_changed": any(value != default for value in values),
                "help": setting.help,
            }
        )
    return rows if any(record.settings for record in records) else []


def _evaluation_settings(results: Sequence[ModelResult]) -> list[tuple[str, str]]:
    """What the last evaluation wrote about itself, flattened to dotted names."""

    def flatten(value: object, name: str) -> list[tuple[str, str]]:
        if isinstance(value, Mapping):
            return [
                row
                for key, inner in value.items()
                for row in flatten(inner, f"{name}.{key}" if name else str(key))
            ]
        return [(name, NOTHING if value is None else str(value))]

    return flatten(results[-1].settings, "") if results and results[-1].samples else []


def _warnings(
    records: Sequence[RunRecord],
    results: Sequence[ModelResult],
    differences: Mapping[Any, Any],
    *,
    is_demo: bool,
) -> list[str]:
    lines = [f"{record.stage}: {problem}" for record in records for problem in record.problems]
    for record in records:
        invalid = sum(int(row.get("invalid") or 0) for row in record.train)
        samples = sum(int(row.get("samples") or 0) for row in record.train)
        if invalid:
            count = f"{invalid} of {samples:,} training pictures"
            lines.append(f"{record.stage}: {count} had no defined reward and were left out")
        if record.planned_updates and record.last_update < record.planned_updates:
            where = f"update {record.last_update} of {record.planned_updates}"
            lines.append(f"{record.stage}: stopped, or still running, at {where}")
        if not record.heldout:
            lines.append(f"{record.stage}: no held-out evaluation yet")
    for result in results:
        if result.row.get("undefined"):
            count = f"{result.row['undefined']} held-out pictures"
            lines.append(f"{result.name}: {count} have an undefined score and are left out")
    if len(results) > 1 and not differences:
        lines.append(
            "the evaluations differ in seed, steps or pictures, so no paired differences can be made"
        )
    if records[-1].stage == "suppress" and len(records) == 1 and not is_demo:
        lines.append("suppress: the run it started from was not found, so the base model is missing here")
    return lines


def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=number,
        signed=signed,
        with_error=with_error,
        short=short_number,
        inlined=_inlined,
        small=_small,
    )
    environment.tests["defined_number"] = is_defined
    return environment


def _small(path: Path) -> str:
    """The picture as a data URL at a third of the bytes, for pages of hundreds."""
    return _inlined(path, quality=80)


def _inlined(path: Path, quality: int = 92) -> str:
    """The picture as a data URL: JPEG files as they are, others as JPEG."""
    content = path.read_bytes()
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(content)).convert("RGB").save(buffer, "JPEG", quality=quality, subsampling=0)
        content = buffer.getvalue()
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode('ascii')}"
