"""What a reward reads of a picture: dense semantic, structural and visual features on one grid, as plain tensors.

Shapes: B pictures, C channels, a grid of h x w cells. Backbones (divrl_core/models/features) make these; the scores
below never ask which backbone it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Kernel = Literal["cosine", "exponential"]


@dataclass(frozen=True, kw_only=True)
class VisualFeature:
    """One view of how cells look, and how its similarity is measured.

    kernel "cosine": the cosine of two cells; "exponential": exp(-|a - b| / scale), with `scale` in the feature's own
    unit. `weight` (>= 0) is this feature's share in the mean over all visual features.
    """

    name: str
    values: Tensor  # (B, C, h, w)
    kernel: Kernel = "cosine"
    scale: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FeatureBatch:
    """Features of B pictures on one grid; everything a reward needs from one pass of a backbone."""

    semantic: Tensor  # (B, Cs, h, w): finds matches between pictures
    structure: Tensor  # (B, Cv, h, w): what nSSM reads
    visual: tuple[VisualFeature, ...]  # what VSM compares at the matches
    image: Tensor | None = None  # (B, Ci): the whole picture in one vector, where the backbone has one

    def __post_init__(self) -> None:
        """Every feature must share the batch size and the grid."""
        if not self.visual:
            raise ValueError("visual features: expected at least one, got none")
        if not sum(feature.weight for feature in self.visual) > 0:
            raise ValueError("visual features: the weights must sum to more than 0")
        batch, (h, w) = self.semantic.shape[0], self.grid
        named = [("structure", self.structure), *((feature.name, feature.values) for feature in self.visual)]
        for name, values in named:
            if values.ndim != 4 or values.shape[0] != batch or tuple(values.shape[-2:]) != (h, w):
                raise ValueError(
                    f"feature {name!r} must share the semantic grid: expected ({batch}, C, {h}, {w}), "
                    f"got {tuple(values.shape)}; resample it in the backbone"
                )
        if self.image is not None and (self.image.ndim != 2 or len(self.image) != batch):
            raise ValueError(f"image features must be ({batch}, C), got {tuple(self.image.shape)}")

    def __len__(self) -> int:
        """The number of pictures."""
        return self.semantic.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.semantic.shape[-2], self.semantic.shape[-1]

    @staticmethod
    def cat(parts: Sequence[FeatureBatch]) -> FeatureBatch:
        """The pictures of all parts, one after the other; parts come from one backbone."""
        first = parts[0]
        return FeatureBatch(
            semantic=torch.cat([part.semantic for part in parts]),
            structure=torch.cat([part.structure for part in parts]),
            visual=tuple(
                replace(feature, values=torch.cat([part.visual[number].values for part in parts]))
                for number, feature in enumerate(first.visual)
            ),
            image=None
            if first.image is None
            else torch.cat([part.image for part in parts if part.image is not None]),
        )

    def to(self, device: torch.device | str) -> FeatureBatch:
        """The same on another device."""
        return FeatureBatch(
            semantic=self.semantic.to(device),
            structure=self.structure.to(device),
            visual=tuple(replace(feature, values=feature.values.to(device)) for feature in self.visual),
            image=None if self.image is None else self.image.to(device),
        )

    def select(self, rows: slice) -> FeatureBatch:
        """The features of a run of pictures."""
        return FeatureBatch(
            semantic=self.semantic[rows],
            structure=self.structure[rows],
            visual=tuple(replace(feature, values=feature.values[rows]) for feature in self.visual),
            image=None if self.image is None else self.image[rows],
        )
