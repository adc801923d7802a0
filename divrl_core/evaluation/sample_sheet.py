"""The contact sheet of a run: the same references and seeds, again and again, as the policy changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from ..training.encoded_pairs import EncodedPairs
from ..training.policy import Policy
from ..training.processes import Processes
from ..training.references import PromptPair, ReferenceSet
from ..training.rewarding import Rewarder
from .comparison import write_sheet
from .generate import PictureJob, generate
from .sheets import Picture, SheetRow, contact_sheet, score_caption

STREAM = "sample sheet"


def write_sample_sheet(
    path: Path,
    policy: Policy,
    encoded: EncodedPairs,
    rewarder: Rewarder,
    references: ReferenceSet,
    *,
    title: str,
    rows: int,
    seeds: Sequence[int],
    steps: int,
    batch_size: int,
    processes: Processes,
    on_progress: Callable[[int], None] = lambda made: None,
) -> None:
    """Make and write a sheet: a row for each of the first `rows` references, a column for each seed.

    `encoded` must hold the pairs of `sheet_pairs`. Of several processes each makes its share, and the main one writes.
    """
    pairs = sheet_pairs(references.pairs, rows)
    jobs = [PictureJob(pair=pair, sample=0, seed=seed, stream=STREAM) for pair in pairs for seed in seeds]
    made: list[tuple[int, Picture, str]] = []
    for batch, images in generate(
        policy,
        encoded,
        jobs,
        steps=steps,
        batch_size=batch_size,
        on_progress=on_progress,
        processes=processes,
    ):
        scores, _ = rewarder.scores_each(images, references, [job.pair.reference_id for job in batch])
        for row, job in enumerate(batch):
            caption = score_caption(scores.nssm[row].item(), scores.vsm[row].item())
            made.append((jobs.index(job), images[row].cpu(), caption))
    made = sorted(processes.gather(made), key=lambda one: one[0])
    if not processes.is_main:
        return
    pictures: dict[str, list[Picture]] = defaultdict(list)
    captions: dict[str, list[str]] = defaultdict(list)
    for place, picture, caption in made:
        pictures[jobs[place].pair.group_id].append(picture)
        captions[jobs[place].pair.group_id].append(caption)
    sheet = contact_sheet(
        [
            SheetRow(
                label=pair.prompt,
                reference=references.load(pair.reference_id, policy.size_px).image,
                results=pictures[pair.group_id],
                captions=captions[pair.group_id],
            )
            for pair in pairs
        ],
        columns=["reference", *(f"seed {seed}" for seed in seeds)],
        title=title,
    )
    write_sheet(path, sheet)


def sheet_pairs(pairs: Sequence[PromptPair], rows: int) -> tuple[PromptPair, ...]:
    """The first pair of each of the first `rows` references."""
    first = {pair.reference_id: pair for pair in reversed(pairs)}
    in_order = dict.fromkeys(pair.reference_id for pair in pairs)
    return tuple(first[reference_id] for reference_id in in_order)[:rows]
