"""The page of the experiment on masked flow matching: tables, what was expected, a figure; from the cells alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ..training.files import write_atomic_bytes, write_atomic_text
from .cfm_plan import ATTENTION, FULL, MASKED, MODULATION, TEXT_ONLY, UPDATES
from .experiment_charts import draw_model, png_of
from .experiment_plan import BASE
from .experiment_report import expectations_table, models_table, paired_table
from .experiment_results import Expected, OverSeeds, PairedOverSeeds, Results
from .paired import TURNED
from .svg import COLOURS, open_charts, plain_tick, style

PAGE = "experiment.md"
ORDER = (BASE, TEXT_ONLY, MASKED, FULL, ATTENTION, MODULATION, "explore", "suppress")
COLOUR = {
    BASE: COLOURS["base"],
    TEXT_ONLY: COLOURS["muted"],
    MASKED: "#009e73",
    FULL: "#cc79a7",
    ATTENTION: "#56b4e9",
    MODULATION: "#e69f00",
    "explore": COLOURS["explore"],
    "suppress": COLOURS["suppress"],
}
PAIRS = (
    (MASKED, BASE),
    (MASKED, TEXT_ONLY),
    (MASKED, FULL),
    (MASKED, ATTENTION),
    (MASKED, MODULATION),
    ("explore", MASKED),
    ("suppress", "explore"),
    ("suppress", MASKED),
)


def write_cfm_report(cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/experiment.md with its figures, from all cells in a folder; None where there is none yet."""
    results = Results.read(cells, ORDER)
    if not results.models:
        return None
    write_atomic_bytes(output / "planes.png", planes_png(results))
    sheet = output / f"seed-{results.seeds[0]}" / "sheet.jpg"
    if sheet.is_file():
        shutil.copyfile(sheet, output / "sheet.jpg")
    return write_atomic_text(output / PAGE, page(results, has_sheet=(output / "sheet.jpg").is_file()))


def page(results: Results, *, has_sheet: bool) -> str:
    """The page as Markdown: a pure function of the cells."""
    parts = [
        "# Masked conditional flow matching on the pocket world",
        _introduction(results),
        "![Every model in the planes of identity and structure](planes.png)",
        "*Small dots are seeds, large ones their means. Left: VSM to the reference, and nSSM to it (low: a copy of "
        "its structure). Right: the true identity error (low is right) and the share in another pose.*",
        "## Every model",
        models_table(results),
        "## What was expected",
        expectations_table(expectations(results)),
        "## Paired differences",
        "Same figures, prompts and noise on both sides; mean ± standard error, in brackets the seeds.",
        *(
            paired_table(results, after, before)
            for after, before in PAIRS
            if after in results.models and before in results.models
        ),
    ]
    if has_sheet:
        parts += [
            "## Pictures",
            "![The models on the same references and seeds](sheet.jpg)",
            "*The first held-out figures of the first seed, not picked. base and text-only do not see the reference.*",
        ]
    return "\n\n".join(parts) + "\n"


def expectations(results: Results) -> list[Expected]:
    """What the paper (arXiv:2511.08061) lets expect, held against the cells.

    A difference counts where its 95% interval leaves 0 out and it is larger than the seeds' spread.
    """
    wanted = (
        ("identity is learned: VSM above the base's", MASKED, BASE, "vsm", 1),
        ("and not by drawing better: VSM above the text-only control's", MASKED, TEXT_ONLY, "vsm", 1),
        ("true identity error below the text-only control's", MASKED, TEXT_ONLY, "identity_error", -1),
        ("masked above full loss in identity (VSM)", MASKED, FULL, "vsm", 1),
        ("masked copies less than full loss (nSSM to the reference)", MASKED, FULL, "nssm", 1),
        ("feed-forward helps: VSM above attention alone", MASKED, ATTENTION, "vsm", 1),
        ("modulation does not: VSM above the LoRA that has it too", MASKED, MODULATION, "vsm", 1),
        ("explore on top: nSSM above masked", "explore", MASKED, "nssm", 1),
        ("explore on top: VSM below masked", "explore", MASKED, "vsm", -1),
        ("suppress: VSM above explore", "suppress", "explore", "vsm", 1),
        ("suppress: nSSM above masked", "suppress", MASKED, "nssm", 1),
    )
    return [_moved(results, *one) for one in wanted]


def planes_png(results: Results) -> bytes:
    """Every model in two planes, a small dot a seed and a large one for the mean."""
    with style():
        figure, (measured, true) = open_charts(2, 380, 340)
        _plane(measured, results, "vsm", "nssm")
        measured.set_title("As the rewards measure it", loc="left")
        measured.set_xlabel("VSM to the reference")
        measured.set_ylabel("nSSM to the reference")
        _plane(true, results, "identity_error", TURNED)
        true.set_title("As it is true", loc="left")
        true.set_xlabel("identity error (left is right)")
        true.set_ylabel("in another pose, share")
        return png_of(figure)


def _introduction(results: Results) -> str:
    cells = [cell for name in results.models for cell in results.cells(name)]
    counts = sorted({cell.summary["n"] for cell in cells})
    figures = sorted({cell.summary["n_references"] for cell in cells})
    made = ", ".join(f"{name} {len(results.cells(name))}" for name in results.models)
    return (
        f"Written by `divrl-train experiment cfm` from {len(cells)} cells, a model and seed each (seeds a model: "
        f"{made}). "
        f"All LoRAs have rank 32 and {UPDATES} updates of 32 pairs, on the pocket's text-to-image base. *text-only* "
        "sees no reference; *masked* and *full* differ in the loss alone; *attention* and *modulation* differ from "
        "masked in the layers alone (attention; attention, feed-forward and modulation; masked has the first two). "
        "*explore* and *suppress* go on from masked in the width layout. A cell: "
        f"{' or '.join(map(str, counts))} pictures of {' or '.join(map(str, figures))} held-out figures, 28 steps, the "
        "same noise for every model of a seed. Whole, change of pose, identity error: by the "
        "[truth instrument](../truth.md), which nothing here is trained on." + _best_and_whole(results)
    )


def _best_and_whole(results: Results) -> str:
    """Which LoRA has the most identity, and that hardly a picture is whole where that is so."""
    trained = [name for name in (MASKED, FULL, ATTENTION, MODULATION) if name in results.models]
    said = ""
    if trained:
        best = max(trained, key=lambda name: results.measure(name, "vsm").mean)
        said += f" The LoRA with the highest VSM is *{best}*."
    whole = max(results.measure(name, "clean_share").mean for name in results.models)
    if whole < 0.05:
        share = "none" if whole == 0 else f"at most {whole:.1%}"
        said += (
            f" By the instrument {share} of any model's pictures are whole: in so few updates colours and parts come "
            "over, crisp figures do not, so identity is told by VSM and by the identity error."
        )
    return said


def _moved(results: Results, text: str, after: str, before: str, measure: str, sign: int) -> Expected:
    found: PairedOverSeeds | None = results.paired(after, before).get(measure)
    if found is None:
        return Expected(text=text, measured="n/a", holds=None)
    low, high = found.interval
    over: OverSeeds = found.over_seeds
    spread = f", seeds spread by {over.spread:.3f}" if math.isfinite(over.spread) else ""
    measured = f"{over.mean:+.3f} [{low:+.3f}, {high:+.3f}]{spread}"
    is_beyond = (low > 0 or high < 0) and not abs(over.mean) <= over.spread
    return Expected(text=text, measured=measured, holds=over.mean * sign > 0 if is_beyond else None)


def _plane(axes: Axes, results: Results, across: str, up: str) -> None:
    for name in results.models:
        is_below = name in (TEXT_ONLY, MODULATION)  # their neighbours' names stand above
        draw_model(axes, results, name, (across, up), colour=COLOUR[name], label=name, is_below=is_below)
    axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
    axes.margins(x=0.25, y=0.14)
