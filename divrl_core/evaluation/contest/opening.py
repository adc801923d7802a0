"""A contest from a user's words: benchmark, models and metrics opened and checked, in the one place that knows all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...models.model_names import POCKET
from ..benchmarks.base import Benchmark, PictureName
from .entries import parse_entries
from .plan import Contest, checked_contest
from .settings import ContestSettings


@dataclass(frozen=True, kw_only=True)
class Words:
    """What a user names. references, prompts: at most so many of the benchmark's; metrics: () = the registry's own."""

    benchmark: str
    models: Sequence[str]
    metrics: Sequence[str] = ()
    references: int | None = None
    prompts: int | None = None


def open_contest(words: Words, settings: ContestSettings) -> Contest:
    """Open and check everything; no model is read. Raises ValueError or FileNotFoundError with all that is wrong."""
    from ..benchmarks.opening import open_benchmark  # type: ignore[import-not-found]
    from ..metrics.registry import open_scorers  # type: ignore[import-not-found]

    entries = parse_entries(words.models)
    is_pocket = words.benchmark.partition(":")[0] == POCKET  # its masks are exact
    benchmark: Benchmark = open_benchmark(
        words.benchmark,
        references=words.references,
        prompts=words.prompts,
        segmenter=None if is_pocket else settings.segmenter,
        seed=settings.seed,
    )
    scorers = open_scorers(words.metrics, backbone=settings.backbone)
    return checked_contest(settings, benchmark, entries, scorers, finished=_finished)


def _finished(folder: Path, benchmark: Benchmark) -> Mapping[PictureName, Path]:
    from ..benchmarks.finished import finished_pictures  # type: ignore[import-not-found]

    found: Mapping[PictureName, Path] = finished_pictures(folder, benchmark)
    return found
