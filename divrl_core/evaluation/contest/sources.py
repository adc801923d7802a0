"""A scorer before it is loaded, and what is kept of it once it was: its metrics, and the origin of its network.

OUTPUT/scores/scorers/NAME.json   {"asked": "clip", "version": 1, "source": "CLIP ViT-L/14, ...", "metrics": [{...}]}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ...training.files import write_atomic_json
from ..metrics.base import Metric, Scorer
from .evaluated import Measured
from .records import SCORES

SCORERS = "scorers"


class CheckMask(Protocol):
    """Whether a reference's mask says something to a network, as far as that is known before it is loaded."""

    def __call__(self, mask: Tensor, *, name: str) -> None:
        """Raises ValueError with the reference's name where it does not. mask: bool (H, W), of pixels."""


def any_mask(mask: Tensor, *, name: str) -> None:
    """Of a scorer that looks at no cells."""


@dataclass(frozen=True, kw_only=True)
class ScorerSource:
    """A scorer that waits for its turn.

    name: in files. asked: how it was asked for, with all that changes its values, in words. load: reads its network.
    check_mask: of references, before any picture is made. version: of its values, whatever the network.
    """

    name: str
    asked: str
    load: Callable[[torch.device], Scorer]
    check_mask: CheckMask = any_mask
    version: int = 1


def check_scorers(output: Path, sources: Sequence[ScorerSource]) -> None:
    """Raises ValueError where a folder's scores are of a scorer that was asked for otherwise."""
    for source in sources:
        path = _file(output, source.name)
        if not path.is_file():
            continue
        before = _content(path)
        if before["asked"] != source.asked:
            raise ValueError(
                f"{output / SCORES}: {source.name} was asked for as {before['asked']}, here as {source.asked}; "
                f"{_OTHERWISE}"
            )
        if before["version"] != source.version:
            raise ValueError(
                f"{output / SCORES}: {source.name} was measured by version {before['version']} of its metrics, here "
                f"{source.version}; {_OTHERWISE}"
            )


def keep_scorer(output: Path, source: ScorerSource, scorer: Scorer) -> None:
    """Keep what a loaded scorer is. Raises ValueError where the folder's scores are of another network."""
    path = _file(output, source.name)
    if path.is_file() and (before := _content(path)["source"]) != scorer.source:
        raise ValueError(
            f"{output / SCORES}: {source.name} was measured with {before}, here with {scorer.source}; {_OTHERWISE}"
        )
    metrics = [asdict(metric) for metric in scorer.metrics]
    write_atomic_json(
        path,
        {
            "asked": source.asked,
            "version": source.version,
            "source": scorer.source,
            "metrics": metrics,
        },
    )


def is_kept(output: Path, source: ScorerSource) -> bool:
    """Whether a scorer was loaded before; scores without this tell nobody what they are."""
    return _file(output, source.name).is_file()


def kept_measures(output: Path, sources: Sequence[ScorerSource]) -> tuple[Measured, ...]:
    """The metrics of these scorers with their origin, as far as they were loaded before."""
    found = []
    for source in sources:
        path = _file(output, source.name)
        if path.is_file():
            content = _content(path)
            found += [Measured(metric=Metric(**one), source=content["source"]) for one in content["metrics"]]
    return tuple(found)


_OTHERWISE = "name another --output, or delete the folder to measure anew"


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kept = {name: content[name] for name in ("asked", "source", "metrics")}
        return {**kept, "version": content.get("version", 1)}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); delete it with the scores beside its folder"
        ) from error


def _file(output: Path, name: str) -> Path:
    return output / SCORES / SCORERS / f"{name}.json"
