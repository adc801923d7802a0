"""The page of the experiment on rewards: every model by what was paid, what was held out and what is true."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..training.files import write_atomic_text
from .comparison import write_sheet
from .experiment_plan import BASE
from .experiment_report import markdown_table, models_table, over_seeds, paired_table
from .experiment_results import Results
from .paired import NEW_POSE_DEG
from .reward_plan import DIVERSE, GATED_TWICE, ORDER, STRUCTURES

PAGE = "experiment.md"
FURTHER = {
    "nssm_cropped": "nSSM, cropped",
    "matched": "matched",
    "coverage": "coverage",
    "held_out.vsm": "lite0: VSM",
    "held_out.extent": "lite0: extent",
    "set_distance": "structure within the set",
    "set_pose_deg": "pose within the set, degrees",
}
PAPERS = "suppress-nssm"
SHEET_PX = 1000  # a sheet of many models is halved: it is kept with the page


def write_reward_report(cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/experiment.md, from all cells in a folder; None where there is none yet."""
    results = Results.read(cells, ORDER)
    if not results.models:
        return None
    sheet = output / f"seed-{results.seeds[0]}" / "sheet.jpg"
    if sheet.is_file():
        with Image.open(sheet) as whole:
            write_sheet(output / "sheet.jpg", whole.reduce(2) if whole.width > SHEET_PX else whole)
    return write_atomic_text(output / PAGE, page(results, has_sheet=(output / "sheet.jpg").is_file()))


def page(results: Results, *, has_sheet: bool) -> str:
    """The page as Markdown: a pure function of the cells."""
    count = sum(len(results.cells(name)) for name in results.models)
    rivals = [f"suppress-{name}" for name in STRUCTURES if f"suppress-{name}" != PAPERS]
    parts = [
        "# Rewards on the pocket world",
        f"Written by `divrl-train experiment rewards` from {count} cells, a model and seed each. Explore pays the "
        "structure alone, suppress the gated reward, from explore's best LoRA; all else is the same. Whole, change of "
        f"pose and identity error are true and seen by no reward; another pose is one more than {NEW_POSE_DEG:g} "
        "degrees from the reference's.",
        "## Every model",
        models_table(results),
        "## What was measured beside it",
        further_table(results),
        "Within the set: between the pictures of one reference. lite0 is held out but for the extent that "
        f"`{GATED_TWICE}` and `{DIVERSE}` are paid for.",
        "## Against the paper's reward",
        "Same figures, prompts and noise on both sides; mean ± standard error, in brackets the seeds.",
        *(
            paired_table(results, after, PAPERS)
            for after in (*rivals, GATED_TWICE, DIVERSE)
            if {after, PAPERS} <= set(results.models)
        ),
        *([paired_table(results, GATED_TWICE, BASE)] if {GATED_TWICE, BASE} <= set(results.models) else []),
    ]
    if has_sheet:
        parts += [
            "## Pictures",
            "![The same references and seeds under every reward](sheet.jpg)",
            "*The first held-out figures of the first seed, not picked.*",
        ]
    return "\n\n".join(parts) + "\n"


def further_table(results: Results) -> str:
    """Mean over seeds, ± their standard deviation, of what the first table does not hold."""
    rows = [["model", *FURTHER.values()]]
    for model in results.models:
        rows.append([model, *(over_seeds(results.measure(model, name), name) for name in FURTHER)])
    return markdown_table(rows)
