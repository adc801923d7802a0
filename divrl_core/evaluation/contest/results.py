"""What is written when a contest is over: tables, figures, a page, and samples as DreamBench++'s scripts read them."""

from __future__ import annotations

from pathlib import Path

from .evaluated import PICTURES, Evaluation
from .plan import Contest


def write_results(
    contest: Contest, evaluation: Evaluation, *, sort_by: str | None, samples: Path | None
) -> Path:
    """Write the report of a finished contest, and its samples where a folder is named; the page.

    sort_by: see `write_report`. samples: the folder `samples` of DreamBench++, in which each model gets one.
    """
    from ..evaluation_pages.progress import run_behind
    from ..evaluation_pages.write import write_report

    runs = {
        entry.name: run
        for entry in contest.made
        if entry.lora is not None and (run := run_behind(entry.lora)) is not None
    }
    files = write_report(evaluation, sort_by=sort_by, runs=runs, backbone=contest.settings.backbone)
    if samples is not None:
        _write_samples(contest, evaluation, samples)
    return files[0]


def samples_problems(contest: Contest, samples: Path) -> list[str]:
    """What stands in the way of writing samples there, a line each, before any picture is made."""
    if contest.benchmark.kind == "pocket":
        return [
            f"--samples {samples}: the pocket world has no picture files to put beside the pictures; leave it out"
        ]
    there = [entry.name for entry in contest.entries if (samples / entry.name).exists()]
    return [
        f"--samples {samples}: {name} is there already; remove it or name another folder" for name in there
    ]


def _write_samples(contest: Contest, evaluation: Evaluation, samples: Path) -> None:
    from ..benchmarks.dreambench_samples import write_samples

    for entry in contest.entries:
        pictures = {name: evaluation.folder / PICTURES / entry.name / name.file for name in contest.names}
        write_samples(pictures, contest.benchmark, entry.name, samples)
