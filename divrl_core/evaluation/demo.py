"""The demo: explore, suppress from it, all three models on the same held-out figures and noise, and a report.

Everything is written as it is done and skipped when it is there, so a demo that was stopped goes on where
it was.

OUTPUT/demo.json                     what the demo was started with: settings, and the model by its hashes
OUTPUT/explore/, suppress/           the two run folders, in each a LoRA and a report
OUTPUT/heldout/{base,...}.json       every held-out picture's scores
OUTPUT/pictures/                    the pictures behind them, and their references
OUTPUT/comparisons/, comparison.jpg  the same references and seeds for all three
OUTPUT/summary.json, report.html     the numbers and the page
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..config import to_mapping
from ..models.model_names import POCKET_FOLDER
from ..settings import flat
from ..training.data import ReferenceSet, RunData
from ..training.files import write_atomic_json
from .comparison import sheet_of, write_comparisons, write_sheet
from .demo_pictures import PICTURES, DemoModels, gather_comparisons
from .demo_settings import DemoPlan, demo_plan
from .made_with import hashed, model_hashes
from .paired import paired_differences
from .report import write_report
from .results import (
    MODEL_NAMES,
    ModelResult,
    compare,
    consistency_cutoff,
    measures_of,
    results_of_demo,
)
from .runs import read_json
from .stage_runs import run_stage
from .words import claims, headline, with_error

logger = logging.getLogger("divrl")


@dataclass(frozen=True)
class DemoResult:
    """What a demo leaves behind."""

    report: Path
    summary: Path
    loras: Mapping[str, Path]


def run_demo(
    output: Path,
    *,
    seed: int = 0,
    resume: bool = False,
    quick: bool = False,
    threads: int | None = None,
) -> DemoResult:
    """Runs the demo into the folder `output`.

    Args:
        output: a new or empty folder, or with `resume` one that holds a demo.
        seed: of figures, noise and order.
        resume: go on with the demo in `output`; with nothing there it begins.
        quick: a few updates only, to see that everything runs; the numbers mean nothing.
        threads: CPU threads; None = torch's choice.

    Raises ValueError when the folder holds something else, or a demo with another seed or length, with
    other settings or of another model.
    """
    plan = demo_plan(seed=seed, threads=threads, quick=quick)
    _open(output, {"seed": seed, "quick": quick}, made_with(plan, POCKET_FOLDER), resume=resume)
    return carry_out(plan, output)


def check_demo(output: Path, *, seed: int, resume: bool, quick: bool) -> bool:
    """Whether a demo is gone on with in `output` (else one would begin); nothing is written. Raises as `run_demo`."""
    plan = demo_plan(seed=seed, threads=None, quick=quick)
    asked = {"seed": seed, "quick": quick}
    return _check(output, asked, made_with(plan, POCKET_FOLDER), resume=resume)


def made_with(plan: DemoPlan, model: Path) -> dict[str, Any]:
    """What the results of a demo follow from: every setting and the SHA-256 of every file of the model, by
    name, and one hash of all these. The number of threads is left out: a demo may go on with another.
    """
    parts: dict[str, Any] = {}
    for name, config in (("explore", plan.explore), ("suppress", plan.suppress)):
        parts |= flat(to_mapping(replace(config, run=replace(config.run, threads=None))), name)
    parts |= flat(asdict(plan.evaluation), "evaluation")
    return hashed(parts | model_hashes(model))


def carry_out(
    plan: DemoPlan, output: Path, *, data: RunData | None = None, last_references: ReferenceSet | None = None
) -> DemoResult:
    """Does whatever of the plan is not done yet in the folder `output`.

    `data` and `last_references`, the references of training and of the last evaluation, replace those that
    the plan's settings name.
    """
    explore_lora = run_stage(plan.explore, output / "explore", data)
    run = replace(plan.suppress.run, init_lora=str(explore_lora))
    suppress_lora = run_stage(replace(plan.suppress, run=run), output / "suppress", data)
    loras = {"explore": explore_lora, "suppress": suppress_lora}
    _evaluate(plan, output, loras, last_references)
    _write_comparisons(output)
    results = results_of_demo(output)
    summary = write_atomic_json(output / "summary.json", summary_of(results))
    report = write_report([output], output / "report.html")
    _tell(results, report)
    return DemoResult(report=report, summary=summary, loras=loras)


def summary_of(results: Sequence[ModelResult]) -> dict[str, Any]:
    """The content of summary.json: each model's measures, and the paired differences between them.

    {"base": {"nssm": {"mean": .36, "se": .01, "n": 128}, ..., "n": 128}, "explore": ..., "suppress": ...,
     "paired": {"explore - base": {"nssm": {"mean": .13, "se": .01, "n": 128, "references": 32}, ...}, ...}}
    """
    summary: dict[str, Any] = {}
    for result in results:
        measures: dict[str, Any] = {
            measure: {
                "mean": result.row.get(measure),
                "se": result.row.get(f"{measure}_se"),
                "n": result.count(measure),
            }
            for measure in measures_of(results)
        }
        summary[result.name] = measures | {"n": int(result.row["n"])}
    by_name = {result.name: result for result in results}
    summary["paired"] = {
        f"{after} - {before}": {
            measure: asdict(difference)
            for measure, difference in paired_differences(
                by_name[before].samples,
                by_name[after].samples,
                consistency_cutoff=consistency_cutoff(results),
            ).items()
        }
        for before, after in (("base", "explore"), ("base", "suppress"), ("explore", "suppress"))
    }
    return summary


def _open(output: Path, asked: Mapping[str, Any], made: Mapping[str, Any], *, resume: bool) -> None:
    """Makes the folder, or checks that what is in it is a demo of the same settings and model."""
    if not _check(output, asked, made, resume=resume):
        write_atomic_json(output / "demo.json", {**asked, "made_with": made})


def _check(output: Path, asked: Mapping[str, Any], made: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether the folder holds a demo of the same settings and model; False where it is new or empty."""
    note = output / "demo.json"
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; name a folder with --output")
    if note.is_file():
        begun = dict(read_json(note))
        if not resume:
            raise ValueError(f"{output} holds a demo; go on with it by --resume, or name another --output")
        if any(begun.get(name) != value for name, value in asked.items()):
            said = ", ".join(f"{name}={begun.get(name)}" for name in asked)
            raise ValueError(
                f"{output} holds a demo with {said}; resume it with the same, or name another --output"
            )
        _refuse_other(output, begun.get("made_with"), made)
        return True
    if output.is_dir() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty and holds no demo; name another --output")
    return False


def _refuse_other(output: Path, begun: Mapping[str, Any] | None, made: Mapping[str, Any]) -> None:
    """Raises ValueError, with what has changed, unless the demo was begun with the same settings and model."""
    if begun is not None and begun["hash"] == made["hash"]:
        return
    way_out = f"name another --output, or delete {output}"
    if begun is None:
        raise ValueError(f"{output} holds a demo of an older version, without its settings; {way_out}")
    before, now = begun["parts"], made["parts"]
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    said = [
        name if name.startswith("model/") else f"{name} was {before.get(name)}, is {now.get(name)}"
        for name in changed[:3]
    ]
    more = f", and {len(changed) - 3} more" if len(changed) > 3 else ""
    raise ValueError(f"{output} holds a demo made otherwise: changed: {', '.join(said)}{more}; {way_out}")


def _evaluate(
    plan: DemoPlan, output: Path, loras: Mapping[str, Path], references: ReferenceSet | None
) -> None:
    """Held-out scores and comparison pictures of each model that has none yet."""
    missing = [name for name in MODEL_NAMES if not (output / "heldout" / f"{name}.json").is_file()]
    if not missing:
        logger.info("all three models are evaluated")
        return
    models = DemoModels(plan.explore, plan.evaluation, output, references)
    models.write_references(output / PICTURES / "references")
    for name in missing:
        models.load(loras.get(name))
        models.write_comparison(name, output / "comparisons")
        # The scores come last: their file says that the model is done.
        write_atomic_json(
            output / "heldout" / f"{name}.json", models.evaluate(name, output / PICTURES).as_json()
        )


def _write_comparisons(output: Path) -> None:
    """The three models' pictures as one list and one sheet."""
    comparisons = gather_comparisons(output / "comparisons", MODEL_NAMES)
    write_comparisons(output / "comparisons", comparisons)
    sheet = sheet_of(comparisons, title="Same references, same seeds: base, explore, suppress")
    write_sheet(output / "comparison.jpg", sheet)


def _tell(results: Sequence[ModelResult], report: Path) -> None:
    differences = compare(results)
    logger.info("%s", headline(results, differences))
    for claim in claims(differences):
        logger.info("%s: %s (%s)", claim.text, with_error(claim.difference), claim.verdict)
    logger.info("report: %s", report)
