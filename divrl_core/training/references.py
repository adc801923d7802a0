"""What a set of references is to the training loop and the evaluation.

A reference is a picture with the mask of its object; a group of samples is one (reference, prompt) pair,
named by its `group_id` and never by its caption's text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class PromptPair:
    """One (reference, prompt) pair; `group_id`: reference id, "#", place of the caption from 0."""

    group_id: str
    reference_id: str
    prompt: str


@dataclass(frozen=True)
class Reference:
    """A reference at size S: image (3, S, S) float32 in [0, 1]; mask (S, S) bool, True on the object."""

    image: Tensor
    mask: Tensor


class ReferenceSet(Protocol):
    """What the training loop and the evaluation need of a set of references."""

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        """Every (reference, prompt) pair, in a stable order."""

    @property
    def mask_source(self) -> str:
        """Where the masks come from, in words: "files", "alpha", "model", "whole picture", or how many of each."""

    def load(self, reference_id: str, size_px: int) -> Reference:
        """The reference as a square of `size_px`; its tensors are shared, so not to be written to."""


class Truth(Protocol):
    """What is true of a generated picture in a world that is known."""

    @property
    def is_clean(self) -> bool:
        """Whether this is a whole picture of its figure."""

    @property
    def identity_error(self) -> float:
        """Distance to the nearest true picture of the figure: root mean square of colours in [0, 1]."""

    @property
    def pose_change_deg(self) -> float:
        """How far view and joints truly are from the reference's."""


@runtime_checkable
class KnownWorld(ReferenceSet, Protocol):
    """References whose truth is known, as the pocket world's."""

    def truths(self, pictures: Tensor, pairs: Sequence[PromptPair]) -> Sequence[Truth]:
        """The truth of pictures (B, 3, S, S) made for these pairs."""

    def pose_apart_deg(self, pair: PromptPair, first: Truth, second: Truth) -> float:
        """The true change of pose, in degrees, from one picture made for a pair to another."""


class DataProblems(ValueError):
    """Everything that is wrong with the data: in `lines`, and in the message each on its own line."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        count = "1 problem" if len(self.lines) == 1 else f"{len(self.lines)} problems"
        super().__init__("\n".join([f"{count} in the data:", *(f"  - {line}" for line in self.lines)]))


@dataclass(frozen=True)
class SomePairs:
    """A reference set of which only these pairs are used."""

    references: ReferenceSet
    pairs: tuple[PromptPair, ...]

    @property
    def mask_source(self) -> str:
        """As of the whole set."""
        return self.references.mask_source

    def load(self, reference_id: str, size_px: int) -> Reference:
        """As of the whole set."""
        return self.references.load(reference_id, size_px)


def known_world(references: ReferenceSet) -> KnownWorld | None:
    """The set, or the whole of which it is a part, if its truth is known."""
    whole = references.references if isinstance(references, SomePairs) else references
    return whole if isinstance(whole, KnownWorld) else None


def first_prompts(references: ReferenceSet, count: int) -> SomePairs:
    """The set with the first `count` prompts of each reference, in the order of the whole set."""
    seen: Counter[str] = Counter()
    kept = []
    for pair in references.pairs:
        seen[pair.reference_id] += 1
        if seen[pair.reference_id] <= count:
            kept.append(pair)
    return SomePairs(references, tuple(kept))


def prompt_pairs(reference_id: str, captions: Sequence[str]) -> tuple[PromptPair, ...]:
    """The pairs of one reference, one for each of its captions."""
    return tuple(
        PromptPair(f"{reference_id}#{place}", reference_id, caption) for place, caption in enumerate(captions)
    )
