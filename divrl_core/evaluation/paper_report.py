"""The page of one of the paper's questions: every model, the claims and what came of them, from the cells alone."""

from __future__ import annotations

import io
import math
from functools import partial
from pathlib import Path

from PIL import Image

from ..training.files import write_atomic_bytes, write_atomic_text
from .evaluation_pages.palette import looks
from .evaluation_pages.planes import Spot, plane_figure
from .experiment_charts import png_of
from .experiment_report import (
    HEADINGS,
    expectations_table,
    models_table,
    paired_table,
    signed,
    with_error,
)
from .experiment_results import Expected, OverSeeds, PairedOverSeeds, Results
from .paired import NEW_POSE_DEG, TURNED
from .paper_questions import QUESTIONS, Claim
from .standings.bootstrap import Interval
from .svg import style

PLANES = (
    (
        "consistency_ratio",
        "consistency ratio",
        "diversity_over_consistency",
        "diversity over consistency (nSSM)",
    ),
    ("clean_share", "whole pictures, share", TURNED, "in another pose, share"),
)
"""As measured, and as it is true: a measure across with its words, and one up."""


def write_paper_report(question: str, cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/QUESTION.md and .png, from all cells in a folder; None where the question has none yet."""
    results = Results.read(cells, QUESTIONS[question].order)
    if not results.models:
        return None
    write_atomic_bytes(output / f"{question}.png", planes_png(results))
    return write_atomic_text(output / f"{question}.md", page(question, results))


WRITERS = {name: partial(write_paper_report, name) for name in QUESTIONS}


def page(question: str, results: Results) -> str:
    """The page as Markdown: a pure function of the cells."""
    asked = QUESTIONS[question]
    made = ", ".join(f"{name} {len(results.cells(name))}" for name in results.models)
    pairs = dict.fromkeys((claim.after, claim.before) for claim in asked.claims)
    parts = [
        f"# {asked.title}",
        f"Written by `divrl-train experiment {question}` (seeds a model: {made}). {asked.about} All else is the "
        "demo's. Whole, change of pose and identity error are true and seen by no reward; another pose is one more "
        f"than {NEW_POSE_DEG:g} degrees from the reference's.",
        "## What was claimed",
        f"Source: {asked.source}. A claim holds where the 95% interval of the paired difference, over pictures, leaves "
        "out 0 on its side and every seed lies there too; it fails where both are so on the other side, and is not "
        "known otherwise. *As well* holds where neither is so.",
        expectations_table([judged(claim, results) for claim in asked.claims]),
        "## Every model",
        models_table(results),
        f"![As measured, and as it is true]({question}.png)",
        "Left as the rewards measure it, right as it is true: the seeds' mean, and lines from the lowest to the "
        "highest seed.",
        "## Paired differences",
        "Same figures, prompts and noise on both sides; mean ± standard error, in brackets the seeds.",
        *(paired_table(results, *pair) for pair in pairs if set(pair) <= set(results.models)),
    ]
    return "\n\n".join(parts) + "\n"


def judged(claim: Claim, results: Results) -> Expected:
    """What was measured of a claim, and whether it holds; None while a model has no cell, or 0 lies in the interval."""
    if not {claim.after, claim.before} <= set(results.models):
        return Expected(text=claim.text, measured="not made yet", holds=None)
    found = results.paired(claim.after, claim.before).get(claim.measure)
    if found is None or not math.isfinite(found.over_seeds.mean) or not math.isfinite(found.se):
        return Expected(text=claim.text, measured="undefined", holds=None)
    return Expected(text=claim.text, measured=_words(claim, found), holds=_holds(claim, found))


def _words(claim: Claim, found: PairedOverSeeds) -> str:
    each = ", ".join(signed(one.mean, claim.measure) for one in found.differences)
    difference = with_error(found, claim.measure)
    return f"{HEADINGS[claim.measure]}, {claim.after} − {claim.before}: {difference} ({each})"


def _holds(claim: Claim, found: PairedOverSeeds) -> bool | None:
    side = _side(found)
    if claim.sign == 0:
        return side == 0
    return None if side == 0 else side == claim.sign


def _side(found: PairedOverSeeds) -> int:
    """The side of 0 on which the interval and every seed lie; 0 where they do not lie on one."""
    ends = (*found.interval, *(one.mean for one in found.differences))
    return 1 if min(ends) > 0 else -1 if max(ends) < 0 else 0


def planes_png(results: Results) -> bytes:
    """Both planes side by side, every model by the mean of its seeds, as the bytes of a PNG file."""
    look = looks(results.models)
    panels = []
    with style():
        for across, across_words, up, up_words in PLANES:
            spots = [
                Spot(
                    name=name,
                    across=_range(results.measure(name, across)),
                    up=_range(results.measure(name, up)),
                )
                for name in results.models
            ]
            shown = [one for one in spots if math.isfinite(one.across.value) and math.isfinite(one.up.value)]
            figure, _ = plane_figure(shown, across_words, up_words, look)
            panels.append(Image.open(io.BytesIO(png_of(figure))).convert("RGB"))
    whole = Image.new("RGB", (sum(one.width for one in panels), max(one.height for one in panels)), "white")
    for place, panel in enumerate(panels):
        whole.paste(panel, (sum(one.width for one in panels[:place]), 0))
    buffer = io.BytesIO()
    whole.quantize(128).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _range(value: OverSeeds) -> Interval:
    """The mean, from the lowest to the highest seed."""
    low, high = (min(value.values), max(value.values)) if value.values else (math.nan, math.nan)
    return Interval(value=value.mean, low=low, high=high)
