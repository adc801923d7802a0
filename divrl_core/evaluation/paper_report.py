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
)
from .experiment_results import Expected, OverSeeds, PairedOverSeeds, Results
from .paired import LEAST_DIFFERENCE, NEW_POSE_DEG, TURNED
from .paper_questions import QUESTIONS, Claim
from .standings.bootstrap import Interval, student_quantile
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
    pairs = {frozenset((one.after, one.before)): (one.after, one.before) for one in reversed(asked.claims)}
    parts = [
        f"# {asked.title}",
        f"Written by `divrl-train experiment {question}` (seeds a model: {made}). {asked.about} All else is the "
        "demo's. Whole, change of pose and identity error are true and seen by no reward; another pose is one more "
        f"than {NEW_POSE_DEG:g} degrees from the reference's.",
        "## What was claimed",
        f"Source: {asked.source}. A claim holds where the 95% interval of the paired difference over seeds of training "
        "(Student's t, in brackets) leaves out 0 on its side, fails where it does on the other, and is not known "
        "between; *every seed for it*: the seeds agree, and over their pictures the difference is beyond noise. *As "
        "well* holds where the interval lies within the margin named, fails where it lies beyond.",
        expectations_table([judged(claim, results) for claim in asked.claims]),
        "## Every model",
        models_table(results),
        f"![As measured, and as it is true]({question}.png)",
        "Left as the rewards measure it, right as it is true: the seeds' mean, and lines from the lowest to the "
        "highest seed.",
        "## Paired differences",
        "Same figures, prompts and noise on both sides; mean ± standard error over the pictures of these seeds.",
        *(
            paired_table(results, *pair)
            for both, pair in reversed(pairs.items())
            if both <= set(results.models)
        ),
    ]
    return "\n\n".join(parts) + "\n"


def judged(claim: Claim, results: Results) -> Expected:
    """What was measured of a claim, and whether it holds; None while that is not known."""
    if not {claim.after, claim.before} <= set(results.models):
        return Expected(text=claim.text, measured="not made yet", holds=None)
    found = results.paired(claim.after, claim.before).get(claim.measure)
    if found is None or not math.isfinite(found.over_seeds.mean) or not math.isfinite(found.se):
        return Expected(text=claim.text, measured="undefined", holds=None)
    return Expected(text=claim.text, measured=_words(claim, found), holds=_holds(claim, found))


def _words(claim: Claim, found: PairedOverSeeds) -> str:
    each = ", ".join(signed(one.mean, claim.measure) for one in found.differences)
    low, high = seeds_interval(found)
    interval = (
        f"[{signed(low, claim.measure)}, {signed(high, claim.measure)}]"
        if math.isfinite(low)
        else "no interval"
    )
    mean = signed(found.over_seeds.mean, claim.measure)
    words = f"{HEADINGS[claim.measure]}, {claim.after} − {claim.before}: {mean} {interval}, seeds {each}"
    lies = _side_of_all(found)
    if claim.sign == 0 or not lies or _holds(claim, found) is not None:
        return words
    return f"{words}; every seed {'for' if lies == claim.sign else 'against'} it"


def _holds(claim: Claim, found: PairedOverSeeds) -> bool | None:
    low, high = seeds_interval(found)
    if not math.isfinite(low):
        return None
    if claim.sign == 0:
        if max(abs(low), abs(high)) <= claim.margin:
            return True
        return False if min(abs(low), abs(high)) > claim.margin and low * high > 0 else None
    if low <= 0 <= high:
        return None
    return (low > 0) == (claim.sign > 0)


def seeds_interval(found: PairedOverSeeds) -> tuple[float, float]:
    """The 95% interval of a difference over seeds of training, by Student's t: NaN of less than two.

    A seed's own difference holds the noise of its pictures, so this is wider than one over pictures alone.
    """
    over = found.over_seeds
    count = len(over.values)
    if count < 2:
        return math.nan, math.nan
    half = student_quantile(0.975, count - 1) * over.spread / math.sqrt(count)
    return over.mean - half, over.mean + half


def _side_of_all(found: PairedOverSeeds) -> int:
    """The side of 0 on which every seed and the interval over pictures lie; 0 where they do not lie on one.

    A seed's difference that would be printed as 0 lies on none.
    """
    ends = (*found.interval, *(one.mean for one in found.differences))
    return 1 if min(ends) > LEAST_DIFFERENCE else -1 if max(ends) < -LEAST_DIFFERENCE else 0


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
