"""Pairs to train masked conditional flow matching on: a target, a reference of the same subject, captions.

Where they come from is the business of `pair_folders.py`, `pair_dataset.py` and `..pocket.training_pairs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .pictures import decode_picture


@dataclass(frozen=True)
class TrainingPair:
    """One ordered pair; pictures are named by their ids in the set."""

    pair_id: str
    target_id: str
    reference_id: str
    captions: tuple[str, ...]
    """Captions of the target; one is drawn each time the pair is trained on."""


@dataclass(frozen=True)
class PictureFacts:
    """What is known of a picture without holding it: a digest of its pixels, its height and width."""

    digest: str
    height: int
    width: int


class PairSet(Protocol):
    """What the training loop needs of a set of pairs."""

    @property
    def pairs(self) -> tuple[TrainingPair, ...]:
        """Every pair, in a stable order."""

    def facts(self, picture_id: str) -> PictureFacts:
        """Digest and size of a picture."""

    def load(self, picture_id: str) -> Tensor:
        """The picture (3, H, W), float32 in [0, 1]. Raises ValueError when it can no longer be read."""


@dataclass(frozen=True)
class PanelCut:
    """One panel of a grid: its row and column, the grid's shape, and the gap between panels in pixels."""

    row: int
    column: int
    rows: int
    columns: int
    gap_px: int

    def box(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the panel in a grid of that size.

        Raises ValueError when the panels would not be of one size, or would have no pixels.
        """
        inner = height - self.gap_px * (self.rows - 1), width - self.gap_px * (self.columns - 1)
        if inner[0] < self.rows or inner[1] < self.columns or inner[0] % self.rows or inner[1] % self.columns:
            raise ValueError(
                f"a grid of {self.rows}x{self.columns} panels with gaps of {self.gap_px} px does not divide a picture "
                f"of {width} x {height} px (width x height) evenly; set data.grid and data.grid_gap_px to what it is"
            )
        panel_height, panel_width = inner[0] // self.rows, inner[1] // self.columns
        top, left = self.row * (panel_height + self.gap_px), self.column * (panel_width + self.gap_px)
        return top, left, panel_height, panel_width


@dataclass(frozen=True)
class PairPicture:
    """A picture not yet read: `where` is for messages, `read` gives its path or bytes; `cut` is its panel of a grid."""

    where: str
    read: Callable[[], Path | bytes | None]
    cut: PanelCut | None = None

    def pixels(self) -> Tensor:
        """(3, H, W), uint8. Raises ValueError naming the picture when it cannot be read or cut."""
        return self.panel_of(self.decoded())

    def decoded(self) -> NDArray[np.uint8]:
        """The whole file (H, W, 3), of which a panel of a grid is a part. Raises ValueError as `pixels` does."""
        try:
            content = self.read()
            if content is None:
                raise ValueError("there is no picture")
            return np.asarray(decode_picture(content).rgb)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from error

    def panel_of(self, whole: NDArray[np.uint8]) -> Tensor:
        """This picture (3, H, W) of its decoded file. Raises ValueError as `pixels` does."""
        if self.cut is not None:
            try:
                top, left, height, width = self.cut.box(*whole.shape[:2])
            except ValueError as error:
                raise ValueError(f"{self.where}: {error}") from error
            whole = whole[top : top + height, left : left + width]
        return torch.from_numpy(whole.copy()).permute(2, 0, 1).contiguous()


def digest_of(pixels: Tensor) -> str:
    """A digest of a picture's pixels (3, H, W), uint8: equal digests are the same picture."""
    key = repr(tuple(pixels.shape)).encode()
    return blake2b(pixels.numpy().tobytes(), key=key, digest_size=16).hexdigest()


class PicturePairs:
    """Pairs of pictures that were all decoded once (a `PairSet`); decoded again when loaded."""

    def __init__(
        self,
        pairs: Iterable[TrainingPair],
        pictures: Mapping[str, PairPicture],
        facts: Mapping[str, PictureFacts],
    ) -> None:
        self.pairs: tuple[TrainingPair, ...] = tuple(pairs)
        self._pictures, self._facts = pictures, facts

    def facts(self, picture_id: str) -> PictureFacts:
        """As of `PairSet`."""
        return self._facts[picture_id]

    def load(self, picture_id: str) -> Tensor:
        """As of `PairSet`."""
        return self._pictures[picture_id].pixels().float() / 255

    def select(self, pair_ids: Iterable[str]) -> PicturePairs:
        """The set with only these pairs, in the same order."""
        kept = frozenset(pair_ids)
        return PicturePairs(
            (pair for pair in self.pairs if pair.pair_id in kept), self._pictures, self._facts
        )


def subjects(pairs: Sequence[TrainingPair], digest: Callable[[str], str]) -> list[list[TrainingPair]]:
    """The pairs grouped by subject: two pairs that share a picture, by its pixels, show one subject."""
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for pair in pairs:
        leader[find(digest(pair.target_id))] = find(digest(pair.reference_id))
    groups: dict[str, list[TrainingPair]] = {}
    for pair in pairs:
        groups.setdefault(find(digest(pair.target_id)), []).append(pair)
    return list(groups.values())


def split_off(pairs: Sequence[TrainingPair], count: int, digest: Callable[[str], str]) -> frozenset[str]:
    """Ids of the pairs to hold out: whole subjects, by the hash of their first pair's id, until there are `count`.

    At most a quarter of the subjects, but always one. Raises ValueError when there is only one subject.
    """
    groups = sorted(
        subjects(sorted(pairs, key=lambda pair: pair.pair_id), digest),
        key=lambda group: blake2b(group[0].pair_id.encode(), digest_size=16).digest(),
    )
    if len(groups) < 2:
        raise ValueError(
            f"pairs to hold out need at least 2 subjects that share no picture, got {len(groups)}: add pairs, or name "
            "another folder in data.held_out"
        )
    chosen: list[str] = []
    for group in groups[: max(1, len(groups) // 4)]:
        if len(chosen) >= count:
            break
        chosen += [pair.pair_id for pair in group]
    return frozenset(chosen)
