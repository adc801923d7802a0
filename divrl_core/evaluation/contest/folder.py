"""An evaluation's folder: what is in it is gone on with, or refused by naming what differs; then the work begins.

What pictures and scores follow from lies beside them (made.py); evaluation.json is written before the first picture,
so that a half-done folder can be read.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..benchmarks.base import PictureName
from ..comparison import write_picture
from ..made_with import hashed
from .evaluated import (
    FILE,
    PICTURES,
    REFERENCES,
    Asked,
    Evaluation,
    read_evaluation,
    scores_file,
    write_evaluation,
)
from .made import MadeWith, check_made, write_made
from .pictures import missing_pictures
from .plan import Contest, check_pictures, reference_digests
from .records import SCORES, gather_scores
from .shown import Shown, segmenter_of
from .sources import check_scorers, kept_measures

logger = logging.getLogger("divrl")


def missing_by_model(contest: Contest, output: Path) -> dict[str, list[PictureName]]:
    """The pictures that are not there yet, by model."""
    return {entry.name: missing_pictures(output, entry.name, contest.names) for entry in contest.entries}


@dataclass(frozen=True, kw_only=True)
class Origins:
    """What the folder's files follow from. pictures: of each entry, by its name."""

    pictures: Mapping[str, MadeWith]
    scores: MadeWith


def check_folder(contest: Contest, output: Path) -> Origins:
    """What pictures and scores follow from. Raises ValueError where the folder holds something else.

    References are loaded; nothing is written.
    """
    digests = reference_digests(contest)
    _check_evaluation(contest, output)
    made = check_pictures(contest, output, digests)
    scored = _scored_with(contest, made, digests.subjects)
    check_made(output / SCORES, scored, kind="*.jsonl")
    check_scorers(output, contest.scorers)
    return Origins(pictures=made, scores=scored)


def evaluation_of(contest: Contest, output: Path) -> Evaluation:
    """The evaluation as its file tells it, without values; of the scorers those that were loaded before."""
    settings = contest.settings
    shown = Shown(contest.benchmark, contest.base.size_px, output, segmenter_of(settings.segmenter))
    return Evaluation(
        folder=output,
        benchmark=contest.benchmark.name,
        source=contest.benchmark.source,
        seed=settings.seed,
        steps=settings.steps,
        pictures_each=settings.pictures_each,
        cutoff=contest.backbone.consistency_cutoff,
        masks=shown.mask_words,
        questions=_asked(contest),
        models=contest.models,
        measured=kept_measures(output, contest.scorers),
        values={},
    )


def begin_folder(contest: Contest, output: Path) -> dict[str, list[PictureName]]:
    """Check the folder, write what tells of the work and the references; the pictures that are missing, by model.

    Raises ValueError, before anything is written, where the folder holds something else or a reference cannot be read.
    """
    origins = check_folder(contest, output)
    write_evaluation(evaluation_of(contest, output))
    for name, now in origins.pictures.items():
        write_made(output / PICTURES / name, now)
        gather_scores(scores_file(output, name))
    write_made(output / SCORES, origins.scores)
    for reference_id in contest.benchmark.reference_ids:
        reference = contest.benchmark.references.load(reference_id, contest.base.size_px)
        write_picture(output / REFERENCES / f"{reference_id}.png", reference.image)
        mask = reference.mask.float().expand(3, -1, -1)
        write_picture(output / REFERENCES / f"{reference_id}.mask.png", mask)
    missing = missing_by_model(contest, output)
    total = len(contest.names) * len(contest.entries)
    logger.info("%d of %d pictures are there", total - sum(map(len, missing.values())), total)
    return missing


def _check_evaluation(contest: Contest, output: Path) -> None:
    """Raises ValueError where the folder holds an evaluation that this one does not go on with."""
    if not (output / FILE).is_file():
        return
    before, now = read_evaluation(output), evaluation_of(contest, output)
    otherwise = "name another --output"
    for name in ("benchmark", "seed", "steps"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            raise ValueError(f"{output}: holds an evaluation of {name} {old}, here {new}; {otherwise}")
    if before.pictures_each > now.pictures_each:
        raise ValueError(
            f"{output}: holds {before.pictures_each} pictures of each question, here {now.pictures_each}; ask for at "
            f"least as many, or {otherwise}"
        )
    gone = {(one.reference_id, one.number) for one in before.questions} - {
        (one.reference_id, one.number) for one in now.questions
    }
    if gone:
        reference_id, number = min(gone)
        raise ValueError(
            f"{output}: asked {reference_id}/{number} and {len(gone) - 1} more that are not asked here; {otherwise}"
        )


def _scored_with(
    contest: Contest, made: Mapping[str, MadeWith], subjects: Mapping[str, Mapping[str, str]]
) -> MadeWith:
    """What the scores follow from beside the scorers: pictures, masks and views."""
    items = {name: digest for one in subjects.values() for name, digest in one.items()}
    for name, now in made.items():
        items[f"model {name}"] = hashed(now.parts)["hash"]
        items |= {f"picture {name}/{item}": digest for item, digest in now.items.items()}
    segmenter = contest.settings.segmenter
    return MadeWith(parts={"masks": None if segmenter is None else repr(segmenter)}, items=items)


def _asked(contest: Contest) -> tuple[Asked, ...]:
    return tuple(
        Asked(
            reference_id=one.reference_id,
            number=one.number,
            prompt=one.pair.prompt,
            subject=one.subject,
            collection=one.collection,
            is_style=one.is_style,
        )
        for one in contest.benchmark.questions
    )
