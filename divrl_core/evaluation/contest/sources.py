"""A scorer before it is loaded: what it will measure is known, its network is read when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..metrics.base import Metric, Scorer


class ScorerSource(Protocol):
    """What the registry gives for a name."""

    @property
    def name(self) -> str:
        """The scorer's name in files."""

    @property
    def source(self) -> str:
        """Model and origin, printed with every table."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it gives."""

    def problems(self) -> Sequence[str]:
        """What keeps it from being loaded, a line each; nothing is loaded or fetched to tell."""

    def load(self, device: torch.device) -> Scorer:
        """The scorer with its network."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A source made of parts. make: loads the scorer on a device. find_problems: see `ScorerSource.problems`."""

    name: str
    source: str
    metrics: tuple[Metric, ...]
    make: Callable[[torch.device], Scorer]
    find_problems: Callable[[], Sequence[str]] = tuple

    def problems(self) -> Sequence[str]:
        """See `ScorerSource`."""
        return self.find_problems()

    def load(self, device: torch.device) -> Scorer:
        """See `ScorerSource`."""
        return self.make(device)
