"""What an evaluation would do and what of it is there already: every input is checked, nothing is loaded or written."""

from __future__ import annotations

from pathlib import Path

from ...models.flux import DTYPES
from ...training.picture_references import PictureReferences
from ...training.plan_text import gib
from ...training.references import SomePairs
from ...training.sampling_memory import sampling_memory
from ..benchmarks.base import Benchmark
from .entries import Entry
from .evaluated import FILE, PICTURES, scores_file
from .folder import check_folder
from .pictures import missing_pictures
from .plan import Contest, reference_digests
from .records import SCORES, read_all_scores
from .sources import ScorerSource


def contest_lines(contest: Contest, output: Path) -> list[str]:
    """What a contest takes, a line each. Raises ValueError where its folder holds something else."""
    benchmark, settings = contest.benchmark, contest.settings
    lines = [f"benchmark: {benchmark.name}, {len(contest.names)} pictures a model; {benchmark.source}"]
    if _waits_for_masks(benchmark):
        lines.append("references: their masks are made first")
    elif any((output / name).exists() for name in (FILE, PICTURES, SCORES)):
        check_folder(contest, output)
    else:
        reference_digests(contest)
    if contest.made:
        side = contest.base.size_px
        lines.append(
            f"base: {contest.base.model}, {settings.dtype} on {settings.device}; {side} x {side} px, "
            f"{settings.steps} steps, seed {settings.seed}"
        )
    missing = {
        entry.name: len(missing_pictures(output, entry.name, contest.names)) for entry in contest.entries
    }
    lines += [_model_line(contest, entry, missing[entry.name]) for entry in contest.entries]
    if any(missing[entry.name] for entry in contest.made):
        lines.append(_memory_line(contest))
    return [*lines, *(_scorer_line(contest, scorer, output) for scorer in contest.scorers)]


def forwards(contest: Contest, entry: Entry, pictures: int) -> int:
    """Evaluations of the transformer for so many pictures of an entry."""
    return round(pictures * (entry.evaluations(contest.settings.steps) or 0))


def _model_line(contest: Contest, entry: Entry, missing: int) -> str:
    there = f"{len(contest.names) - missing} of {len(contest.names)} pictures there"
    about = next(model.about for model in contest.models if model.name == entry.name)
    if entry.finished is not None:
        return f"model {entry.name}: {about}; {there}"
    return f"model {entry.name}: {about}; {there}, {missing} to make: {forwards(contest, entry, missing)} forwards"


def _scorer_line(contest: Contest, scorer: ScorerSource, output: Path) -> str:
    wanted = set(contest.names)
    done = 0
    for entry in contest.entries:
        rows = read_all_scores(scores_file(output, entry.name))
        places = {
            (row.place.reference_id, row.place.number, row.place.k)
            for row in rows
            if row.scorer == scorer.name
        }
        done += sum((name.reference_id, name.number, name.k) in places for name in wanted)
    total = len(wanted) * len(contest.entries)
    return f"scorer {scorer.asked}: {done} of {total} pictures scored"


def _memory_line(contest: Contest) -> str:
    base, settings = contest.base, contest.settings
    loras = [asking.lora for asking in contest.asked.values() if asking.lora is not None]
    numbers = [sum(tensor.numel() for tensor in lora.tensors.values()) for lora in loras]
    layouts = {asking.layout for asking in contest.asked.values()}
    memory = sampling_memory(
        base.config,
        DTYPES[settings.dtype],
        size_px=(base.size_px, base.size_px),
        layout=next(iter(layouts - {"none"}), "none"),
        text_tokens=base.text_tokens or base.config.text_tokens,
        lora_numbers=max(numbers, default=0),
        device="cpu" if settings.device == "cpu" else "cuda",
    )
    return f"memory: {gib(memory.encode)} while encoding, {gib(memory.sample)} while sampling; scorers' not counted"


def _waits_for_masks(benchmark: Benchmark) -> bool:
    """Whether references cannot be loaded yet, because a segmentation model has to make their masks."""
    references = benchmark.references
    whole = references.references if isinstance(references, SomePairs) else references
    if not isinstance(whole, PictureReferences) or whole.model_masks is None:
        return False
    return bool(whole.for_the_model(set(benchmark.reference_ids)))
