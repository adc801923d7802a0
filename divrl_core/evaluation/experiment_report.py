"""The experiment's page: tables, what was expected and what came of it, frontier and curves, from the cells alone."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from ..training.files import write_atomic_bytes, write_atomic_text
from .experiment_charts import curves_png, frontier_png
from .experiment_plan import BASE
from .experiment_results import (
    MEASURES,
    Expected,
    OverSeeds,
    PairedOverSeeds,
    Results,
    expectations,
)
from .paired import NEW_POSE, NEW_POSE_DEG, TURNED

PAGE = "experiment.md"
HEADINGS = {
    "nssm": "nSSM",
    "vsm": "VSM",
    "consistency_ratio": "consistency ratio",
    "diversity_over_consistency": "diversity over consistency",
    "clean_share": "whole",
    "pose_change_deg": "change of pose, degrees",
    TURNED: "in another pose",
    NEW_POSE: "whole and in another pose",
    "identity_error": "identity error",
}
VERDICTS = {True: "yes", False: "**no**", None: "not known"}


def write_experiment_report(cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/experiment.md with its figures, from all cells in a folder; None where there is none yet."""
    results = Results.read(cells)
    if not results.models:
        return None
    write_atomic_bytes(output / "frontier.png", frontier_png(results))
    write_atomic_bytes(output / "curves.png", curves_png(results))
    sheet = output / f"seed-{results.seeds[0]}" / "sheet.jpg"
    if sheet.is_file():
        shutil.copyfile(sheet, output / "sheet.jpg")
    return write_atomic_text(output / PAGE, page(results, has_sheet=(output / "sheet.jpg").is_file()))


def page(results: Results, *, has_sheet: bool) -> str:
    """The page as Markdown: a pure function of the cells."""
    parts = [
        "# The experiment",
        _introduction(results),
        "## Every model",
        models_table(results),
        "## Paired differences",
        "Same figures, prompts and noise on both sides; mean ± standard error, in brackets the seeds.",
        *(
            paired_table(results, after, before)
            for after, before in (
                ("explore", BASE),
                ("suppress", "explore"),
                ("suppress", BASE),
                ("vsm", BASE),
            )
            if after in results.models and before in results.models
        ),
        "## What was expected",
        expectations_table(expectations(results)),
        "## Frontier",
        "![Planes of diversity against identity](frontier.png)",
        "*Small dots are seeds, large ones their means. Joined: the linear rewards w VSM + (1 − w) nSSM, by w. "
        "Pictures that are both whole and in another pose are counted in the table.*",
        "## Curves",
        "![Held-out measures over the updates](curves.png)",
        "*Explore, then suppress; 32 pictures of 16 held-out figures at each point, a line a seed.*",
    ]
    if has_sheet:
        parts += [
            "## Pictures",
            "![Base, explore and suppress on the same references and seeds](sheet.jpg)",
            "*The first held-out figures of the first seed, not picked.*",
        ]
    return "\n\n".join(parts) + "\n"


def _introduction(results: Results) -> str:
    any_cell = results.cells(results.models[0])[0]
    counts = {cell.summary["n"] for name in results.models for cell in results.cells(name)}
    figures = {cell.summary["n_references"] for name in results.models for cell in results.cells(name)}
    count = sum(len(results.cells(name)) for name in results.models)
    made = ", ".join(f"{name} {len(results.cells(name))}" for name in results.models)
    return (
        f"Written by `divrl-train experiment stages` from {count} cells, a model and "
        f"seed each (seeds a model: {made}). A cell: {_range(counts)} pictures of {_range(figures)} held-out figures, "
        f"{any_cell.summary['steps']} deterministic steps, the same noise for every model of a seed. Features: "
        f"{any_cell.settings['backbone']}; a picture is consistent above VSM "
        f"{any_cell.settings['consistency_cutoff']:g}. "
        f"Whole, change of pose (of the whole ones), identity error: by the truth instrument, which no reward sees; "
        f"another pose is one more than {NEW_POSE_DEG:g} degrees from the reference's."
    )


def models_table(results: Results) -> str:
    """Mean over seeds, ± their standard deviation."""
    rows = [["model", *(HEADINGS[name] for name in MEASURES)]]
    for model in results.models:
        rows.append([model, *(over_seeds(results.measure(model, name), name) for name in MEASURES)])
    return markdown_table(rows) + "\n\nMean over the seeds ± their standard deviation."


def paired_table(results: Results, after: str, before: str) -> str:
    """Paired differences of every measure between two models, as Markdown."""
    found = results.paired(after, before)
    rows = [[f"{after} − {before}", "mean ± error", "seeds"]]
    for name, value in found.items():
        each = ", ".join(signed(one.mean, name) for one in value.differences)
        rows.append([HEADINGS[name], _with_error(value, name), each])
    return markdown_table(rows)


def expectations_table(expected: Sequence[Expected]) -> str:
    """What was expected and what came of it, as Markdown."""
    rows = [["expected", "measured", "so it is"]]
    rows += [[one.text, one.measured, VERDICTS[one.holds]] for one in expected]
    return markdown_table(rows)


def markdown_table(rows: list[list[str]]) -> str:
    """Rows as a Markdown table, the first one its heading."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def over_seeds(value: OverSeeds, name: str) -> str:
    """The mean, ± the spread where there are several seeds."""
    if not math.isfinite(value.mean):
        return "n/a"
    digits = _digits(name)
    spread = f" ± {value.spread:.{digits}f}" if math.isfinite(value.spread) else ""
    return f"{value.mean:.{digits}f}{spread}"


def _with_error(value: PairedOverSeeds, name: str) -> str:
    """The mean of a paired difference with its error; n/a for either that is undefined."""
    if not math.isfinite(value.over_seeds.mean):
        return "n/a"
    error = f"{value.se:.{_digits(name)}f}" if math.isfinite(value.se) else "n/a"
    return f"{signed(value.over_seeds.mean, name)} ± {error}"


def signed(value: float, name: str) -> str:
    """A difference of a measure with its sign."""
    return f"{value:+.{_digits(name)}f}" if math.isfinite(value) else "n/a"


def _digits(name: str) -> int:
    return 1 if name.endswith("_deg") else 3


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"
