"""The pocket world's figures as pairs for masked conditional flow matching."""

from __future__ import annotations

from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Literal

import torch
from torch import Tensor

from ..training.pair_set import PictureFacts, TrainingPair
from .references import FIRST_INDEX
from .render import render
from .world import VIEWS, WORLD_VERSION, View, views_of

CACHED_PICTURES = 64
SIZE_PX = 128


class PocketPairs:
    """`subjects` figures of four views each, and all their ordered pairs (a `PairSet`).

    Two of the four views lie near each other, and the other two, so that four of twelve pairs ask for nearly the pose
    of the reference. Held-out figures have palettes that no training set shows; of these, one pair is taken from each
    quarter of the twelve, so that the set has four pairs a figure.
    """

    def __init__(self, *, split: Literal["train", "held_out"], subjects: int, seed: int = 0) -> None:
        self.split, self.subjects, self.seed = split, subjects, seed
        self._draw = lru_cache(maxsize=CACHED_PICTURES)(self._drawn)
        self._views = lru_cache(maxsize=CACHED_PICTURES)(self._views_of)

    @cached_property
    def pairs(self) -> tuple[TrainingPair, ...]:
        """As of `PairSet`: all twelve of a figure in training, a target from each of the four views when held out."""
        pairs = []
        for number in range(self.subjects):
            views = self._views(number)
            for target in range(VIEWS):
                others = [(target + 1 + step) % VIEWS for step in range(VIEWS - 1)]
                for reference in others if self.split == "train" else others[:1]:
                    names = self.picture_id(number, target), self.picture_id(number, reference)
                    pairs.append(TrainingPair(f"{names[0]}<{names[1]}", *names, (views[target].prompt,)))
        return tuple(pairs)

    def picture_id(self, number: int, view: int) -> str:
        """A readable id: the split, the figure's number, the view's."""
        return f"{self.split}-{number:04d}.{view}"

    def facts(self, picture_id: str) -> PictureFacts:
        """As of `PairSet`. The digest is of what is drawn, not of its pixels: nothing is drawn for it."""
        key = f"pocket world {WORLD_VERSION}/{self.seed}/{picture_id}"
        return PictureFacts(blake2b(key.encode(), digest_size=16).hexdigest(), SIZE_PX, SIZE_PX)

    def load(self, picture_id: str) -> Tensor:
        """As of `PairSet`."""
        return self._draw(picture_id).float() / 255

    def _views_of(self, number: int) -> list[View]:
        return views_of(FIRST_INDEX + number, seed=self.seed, held_out=self.split == "held_out")

    def _drawn(self, picture_id: str) -> Tensor:
        name, view = picture_id.rsplit(".", 1)
        shown = self._views(int(name.rsplit("-", 1)[1]))[int(view)]
        drawn = render(shown.identity, shown.structure, shown.background, size_px=SIZE_PX)
        return torch.from_numpy(drawn.image).permute(2, 0, 1).contiguous()
