"""The pocket world's figures as references for explore and suppress."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..models.features.lite0 import Lite0Backbone
from ..training.references import PromptPair, Reference, prompt_pairs
from .figures import BACKGROUNDS, background_of, caption
from .render import render
from .truth import Truth, changes, truth_of
from .world import View, views_of

FIRST_INDEX = 1_000_000  # beyond every identity that the pocket model itself was trained on
PROMPTS = 4


class PocketReferences:
    """`count` figures, drawn by `seed`; the held-out split has palettes that no training set shows.

    A reference shows its figure in one structure on one background; its prompts name other backgrounds.
    """

    mask_source = "exact (rendered)"

    def __init__(self, *, split: Literal["train", "held_out"], count: int, seed: int = 0) -> None:
        self.split, self.count, self.seed = split, count, seed
        self._load = lru_cache(maxsize=max(count, 1))(self._draw)

    @cached_property
    def pairs(self) -> tuple[PromptPair, ...]:
        """Four prompts a figure, in a stable order."""
        pairs: list[PromptPair] = []
        for number in range(self.count):
            pairs.extend(prompt_pairs(self.reference_id(number), self.prompts(number)))
        return tuple(pairs)

    def prompts(self, number: int) -> list[str]:
        """The prompts of reference `number`; each names another floor than the reference's."""
        view = self.view(number)
        names = list(BACKGROUNDS)
        start = names.index(view.background)
        others = [names[(start + 1 + 2 * step) % len(names)] for step in range(PROMPTS)]
        return [caption(view.identity, name) for name in others]

    def reference_id(self, number: int) -> str:
        """A readable id: the plan and the number, with the split where it is held out."""
        prefix = "" if self.split == "train" else "held-out-"
        return f"{prefix}{self.view(number).identity.plan}-{number:04d}"

    def view(self, number: int) -> View:
        """Who stands how in reference `number`."""
        return views_of(FIRST_INDEX + number, seed=self.seed, held_out=self.split == "held_out")[0]

    def load(self, reference_id: str, size_px: int) -> Reference:
        """The picture and its exact mask; raises ValueError for an id that is not of this set."""
        return self._load(reference_id, size_px)

    def truths(self, pictures: Tensor, pairs: Sequence[PromptPair]) -> list[Truth]:
        """Whether pictures (B, 3, S, S) are whole pictures of their figures, and how far they have moved.

        Their features are always calibrated Lite0's, for which the thresholds were set, whatever the reward reads.
        """
        views = [self.view(self._number(pair.reference_id)) for pair in pairs]
        return truth_of(
            pictures,
            [view.identity for view in views],
            [background_of(pair.prompt) for pair in pairs],
            [view.structure for view in views],
            self._judge,
        )

    def pose_apart_deg(self, pair: PromptPair, first: Truth, second: Truth) -> float:
        """The change of pose from one picture of a pair to another: view, head, and the limbs that both show."""
        identity = self.view(self._number(pair.reference_id)).identity
        return changes(identity, first.structure, second.structure)[1]

    @cached_property
    def _judge(self) -> Lite0Backbone:
        return Lite0Backbone.load()

    def _number(self, reference_id: str) -> int:
        ending = reference_id.rsplit("-", 1)[-1]
        number = int(ending) if ending.isdigit() else -1
        if not 0 <= number < self.count or self.reference_id(number) != reference_id:
            raise ValueError(
                f"pocket world: no reference {reference_id!r} among the {self.count} of {self.split}"
            )
        return number

    def _draw(self, reference_id: str, size_px: int) -> Reference:
        view = self.view(self._number(reference_id))
        drawn = render(view.identity, view.structure, view.background, size_px=size_px)
        image = torch.from_numpy(drawn.image).permute(2, 0, 1).float() / 255
        return Reference(image=image.contiguous(), mask=torch.from_numpy(drawn.mask))
