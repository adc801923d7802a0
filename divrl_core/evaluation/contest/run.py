"""The contest from beginning to end: everything checked, then pictures, then scores, then what is written of them.

Killed at any moment, the same command goes on: pictures and scores appear whole or not at all, and what is there is
kept where it follows from the same settings and files, and refused where it does not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...training.model_masks import free_memory, make_masks
from ...training.processes import Processes, as_lost_process
from ..benchmarks.base import PictureName
from .evaluated import Evaluation, read_evaluation, scores_file, write_evaluation
from .finished_entries import take_over
from .folder import begin_folder, evaluation_of
from .pictures import CACHE, OnPicture, Studio
from .plan import Contest
from .records import gather_scores
from .scoring import OnScored, Scoring
from .shown import Shown, segmenter_of

logger = logging.getLogger("divrl")

Write = Callable[[Evaluation], Path | None]
"""Writes tables or pages of an evaluation and returns what to open first."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What is told of the work as it is done; each may raise to stop it."""

    on_picture: OnPicture = lambda model, name: None
    on_scored: OnScored = lambda scorer, model, reference_id: None


def evaluate_models(
    contest: Contest,
    output: Path,
    processes: Processes,
    *,
    write: Write | None = None,
    hooks: Hooks | None = None,
) -> Evaluation:
    """Make the pictures that are missing, score what is not scored, and write the results of a checked contest.

    Args:
        contest: from `checked_contest`.
        output: the evaluation's folder; anything in it is gone on with.
        processes: that share pictures and scoring; pictures do not depend on how many there are.
        write: writes tables and pages; called once, by the main process.

    Raises ValueError before any picture is made where a reference cannot be read, or the folder holds the pictures or
    scores of other settings, naming what differs; LostProcess where another process is gone.
    """
    try:
        return _held(contest, output, processes, write, hooks or Hooks())
    except RuntimeError as error:
        if (lost := as_lost_process(error)) is None:
            raise
        raise lost from error


def _held(
    contest: Contest, output: Path, processes: Processes, write: Write | None, hooks: Hooks
) -> Evaluation:
    references, size_px = contest.benchmark.references, contest.base.size_px
    make_masks([(references, contest.benchmark.reference_ids)], output / CACHE, processes, size_px=size_px)
    missing = processes.from_main(lambda: begin_folder(contest, output))
    _make_pictures(contest, output, processes, missing, hooks)
    processes.wait()
    _score_pictures(contest, output, processes, hooks)
    return processes.from_main(lambda: _written(contest, output, write))


def _make_pictures(
    contest: Contest,
    output: Path,
    processes: Processes,
    missing: Mapping[str, Sequence[PictureName]],
    hooks: Hooks,
) -> None:
    for entry in contest.entries:
        if entry.finished is not None:
            take_over(output, entry.name, contest.files[entry.name], missing[entry.name], processes)
    studio = Studio(
        settings=contest.settings,
        benchmark=contest.benchmark,
        base=contest.base,
        asked=contest.asked,
        output=output,
        processes=processes,
    )
    studio.make(contest.made, missing, hooks.on_picture)
    free_memory(processes.device)


def _score_pictures(contest: Contest, output: Path, processes: Processes, hooks: Hooks) -> None:
    size_px = contest.base.size_px
    shown = Shown(contest.benchmark, size_px, output, segmenter_of(contest.settings.segmenter))
    shown.make_masks([entry.name for entry in contest.entries], contest.names, output / CACHE, processes)
    scoring = Scoring(
        shown=shown,
        models=[entry.name for entry in contest.entries],
        pictures_each=contest.settings.pictures_each,
        processes=processes,
    )

    def on_loaded(scorer: str) -> None:
        if processes.is_main:
            write_evaluation(evaluation_of(contest, output))

    scoring.score(contest.scorers, hooks.on_scored, on_loaded)


def _written(contest: Contest, output: Path, write: Write | None) -> Evaluation:
    for entry in contest.entries:
        gather_scores(scores_file(output, entry.name))
    write_evaluation(evaluation_of(contest, output))
    evaluation = read_evaluation(output)
    if write is not None and (page := write(evaluation)) is not None:
        logger.info("wrote %s", page)
    return evaluation
