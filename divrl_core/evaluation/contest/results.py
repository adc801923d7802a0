"""What is written when a contest is over: tables, figures, a page, and samples as DreamBench++'s scripts read them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .evaluated import PICTURES, REFERENCES, Evaluation
from .made import FILE, MadeWith, check_made, read_made, write_made
from .pictures import CACHE
from .plan import Contest
from .records import SCORES

OWN_FOLDERS = frozenset({PICTURES, REFERENCES, SCORES, CACHE, "tables", "figures", "sheets", "blind"})
"""What an evaluation's folder holds beside its files."""


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


def samples_problems(contest: Contest, samples: Path, output: Path) -> list[str]:
    """What stands in the way of writing samples there, a line each, before any picture is made.

    A model's own samples, perhaps of fewer pictures, do not. output: the evaluation's folder, which holds its own
    pictures: samples may lie in it under a name that nothing else has.
    """
    if contest.benchmark.kind == "pocket":
        return [
            f"--samples {samples}: the pocket world has no picture files to put beside the pictures; leave it out"
        ]
    if file := next((place for place in (samples, *samples.parents) if place.is_file()), None):
        return [f"--samples {samples}: {file} is a file; name a folder"]
    problems = []
    for entry in contest.entries:
        folder = samples / entry.name
        if problem := _place_problem(folder, output):
            problems.append(f"--samples {samples}: {problem}")
        elif folder.exists():
            try:
                check_made(folder, _as_samples(contest.made_with(entry, {}, {})), kind="*")
            except ValueError as error:
                problems.append(f"--samples {error}")
    return problems


def _place_problem(folder: Path, output: Path) -> str | None:
    """What is wrong with samples in this folder, which is written as a whole, beside the evaluation."""
    samples, evaluation = folder.resolve(), output.resolve()
    if samples == evaluation or samples in evaluation.parents:
        return f"{folder} would take the place of the evaluation in {output}; name another folder"
    if evaluation in samples.parents and samples.relative_to(evaluation).parts[0] in OWN_FOLDERS:
        return f"{folder} lies among the evaluation's own files; name another folder, such as {output / 'samples'}"
    return None


def _as_samples(made: MadeWith) -> MadeWith:
    """What samples of these pictures follow from: told apart from the pictures' own folder."""
    return MadeWith(
        parts={**made.parts, "kind": f"samples of {made.parts['kind']} pictures"}, items=made.items
    )


def _write_samples(contest: Contest, evaluation: Evaluation, samples: Path) -> None:
    """Write every model's samples beside what they follow from; those that are there of the same are kept."""
    from ..benchmarks.dreambench_samples import write_samples

    for entry in contest.entries:
        folder = evaluation.folder / PICTURES / entry.name
        pictures = {name: folder / name.file for name in contest.names}
        made = read_made(folder / FILE)
        items = {
            name.file.as_posix(): made.items.get(name.file.as_posix())
            or made.items[f"{name.reference_id}/{name.number}"]
            for name in pictures
        }
        now = _as_samples(MadeWith(parts=made.parts, items=items))
        if not _is_written(samples / entry.name, now):
            record = partial(write_made, now=now)
            write_samples(pictures, contest.benchmark, entry.name, samples, finish=record)


def _is_written(folder: Path, now: MadeWith) -> bool:
    """Whether samples of just this are there. Raises ValueError where there are others."""
    check_made(folder, now, kind="*")
    return (folder / FILE).is_file() and read_made(folder / FILE) == now
