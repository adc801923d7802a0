"""A contest from a user's words: benchmark, models and metrics opened and checked, in the one place that knows all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import to_mapping
from ...models.fingerprint import path_word
from ...models.model_names import POCKET
from ...rewards.score import object_cells
from ..benchmarks.base import Benchmark, PictureName, Question
from ..metrics.base import Scorer
from ..standings.disagreement import sorting_problems
from .entries import parse_entries
from .plan import Contest, checked_contest
from .settings import ContestSettings
from .sources import ScorerSource


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a user names. references, prompts: at most so many of the benchmark's; metrics: () = the registry's own.

    sort_by: the metric by which the report sorts pictures; None = it chooses.
    """

    benchmark: str
    models: Sequence[str]
    metrics: Sequence[str] = ()
    references: int | None = None
    prompts: int | None = None
    sort_by: str | None = None


def open_contest(words: Words, settings: ContestSettings, *, downloads: bool = False) -> Contest:
    """Open and check everything; no model is read. downloads: fetch what a metric names by hub id, to know it is there.

    Raises ValueError or FileNotFoundError with all that is wrong.
    """
    from ..benchmarks.opening import open_benchmark
    from ..metrics import registry

    entries = parse_entries(words.models)
    is_pocket = words.benchmark.partition(":")[0] == POCKET  # its masks are exact
    benchmark: Benchmark = open_benchmark(
        words.benchmark,
        references=words.references,
        prompts=words.prompts,
        segmenter=None if is_pocket else settings.segmenter,
        seed=settings.seed,
    )
    references = benchmark.references
    has_masks = settings.segmenter is not None and settings.segmenter.model is not None
    choices = [registry.read_choice(text) for text in words.metrics] or registry.default_choices(
        references, has_masks=has_masks
    )
    problems = registry.check(
        choices, backbone=settings.backbone, references=references, has_masks=has_masks, downloads=downloads
    )
    if words.sort_by is not None and not problems:
        found = (one for choice in choices for one in registry.metrics_of(choice, backbone=settings.backbone))
        problems += sorting_problems(words.sort_by, found)
    is_part = words.references is not None or words.prompts is not None
    return checked_contest(
        settings,
        benchmark,
        entries,
        [_waiting(choice, settings, benchmark) for choice in choices],
        finished=lambda folder, questions, each: _finished(folder, questions, each, is_part=is_part),
        problems=problems,
    )


def _waiting(choice: Any, settings: ContestSettings, benchmark: Benchmark) -> ScorerSource:
    """The scorer of a registry's choice, to be loaded when its turn comes."""
    from ..metrics import registry

    def load(device: torch.device) -> Scorer:
        references = benchmark.references
        scorer: Scorer = registry.load_scorer(
            choice, backbone=settings.backbone, references=references, device=str(device)
        )
        return scorer

    asked = choice.name if choice.path is None else f"{choice.name}={path_word(choice.path)}"
    if choice.name == registry.BACKBONE:
        given = {
            key: path_word(value) if key == "path" else value
            for key, value in to_mapping(settings.backbone).items()
            if value is not None
        }
        asked = f"{asked} ({', '.join(f'{key} {value}' for key, value in sorted(given.items()))})"

    def check_mask(mask: Tensor, *, name: str) -> None:
        looked_at = registry.mask_grid(choice, backbone=settings.backbone, size_px=mask.shape[-1])
        if looked_at is not None:
            grid, pool = looked_at
            object_cells(mask, grid, pool, f"{name}, {choice.name}")

    version = registry.version_of(choice)
    return ScorerSource(name=choice.name, asked=asked, load=load, check_mask=check_mask, version=version)


def _finished(
    folder: Path, questions: Sequence[Question], pictures_each: int, *, is_part: bool
) -> Mapping[PictureName, Path]:
    from ..benchmarks.finished import find_finished

    found: Mapping[PictureName, Path] = find_finished(
        folder, questions, pictures_each=pictures_each, is_part=is_part
    ).pictures
    return found
