"""The page of one of the paper's questions: every model, the claims and what came of them, from the cells alone."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

from ..training.files import write_atomic_text
from .experiment_report import (
    HEADINGS,
    expectations_table,
    models_table,
    paired_table,
    signed,
    with_error,
)
from .experiment_results import Expected, PairedOverSeeds, Results
from .paired import NEW_POSE_DEG
from .paper_questions import QUESTIONS, Claim


def write_paper_report(question: str, cells: Path, output: Path) -> Path | None:
    """Writes OUTPUT/QUESTION.md, from all cells in a folder; None where the question has none yet."""
    results = Results.read(cells, QUESTIONS[question].order)
    if not results.models:
        return None
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
        f"Source: {asked.source}. A claim holds where the 95% interval of the paired difference leaves out 0 on its "
        "side, fails where it does on the other, and is not known between; *as well* holds where 0 lies in it.",
        expectations_table([judged(claim, results) for claim in asked.claims]),
        "## Every model",
        models_table(results),
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
    low, high = found.interval
    contains = low <= 0 <= high
    if claim.sign == 0:
        return contains
    if contains:
        return None
    return (low > 0) == (claim.sign > 0)
