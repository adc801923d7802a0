"""The scores of pictures against one reference of any size, the reference's features made once a size.

A square picture is compared with its reference framed as in training, a picture of another shape with the reference
resized to that shape: the same rule, and the same functions, as `divrl-train score`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..rewards.features import FeatureBatch
from ..rewards.score import ReferenceFeatures, Scores, ScoreSettings, reference_features, score_images
from ..training.pictures import frame_to
from ..training.references import Reference
from .choice import Measured
from .diverse import structural_distances

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ..models.features.base import Backbone

Shape = tuple[int, int]
"""(height, width) in px."""


@dataclass(frozen=True)
class Judged:
    """Scores of B pictures of one shape, with the features that they were made from."""

    scores: Scores
    features: FeatureBatch


class Judge:
    """One reference under one backbone."""

    def __init__(
        self,
        backbone: Backbone,
        rgb: Image.Image,
        mask: NDArray[np.bool_] | None,
        *,
        settings: ScoreSettings | None = None,
        name: str = "the reference",
    ) -> None:
        """`mask`: bool (H, W) of the picture's size, True on the subject; None = the whole picture."""
        self.backbone, self.name = backbone, name
        self.settings = settings or backbone.settings.score
        self._rgb, self._mask = rgb, mask
        self._prepared: dict[Shape, tuple[Reference, ReferenceFeatures, FeatureBatch]] = {}

    def reference(self, shape: Shape) -> Reference:
        """The reference as pictures of a shape are compared with it."""
        return self._at(shape)[0]

    def features(self, shape: Shape) -> ReferenceFeatures:
        """Its features at that shape, ready to be compared with."""
        return self._at(shape)[1]

    def own(self, shape: Shape) -> FeatureBatch:
        """Its features at that shape, of all cells, as the backbone gave them."""
        return self._at(shape)[2]

    def score(self, images: Tensor, masks: Tensor | None = None) -> Judged:
        """Scores of pictures (B, 3, H, W) in [0, 1]; `masks`: bool (B, H, W), the subjects in them, or None."""
        if masks is not None and masks.shape != (len(images), *images.shape[-2:]):
            raise ValueError(
                f"image masks must match their images: expected {(len(images), *images.shape[-2:])}, "
                f"got {tuple(masks.shape)}"
            )
        reference = self.features((images.shape[-2], images.shape[-1]))
        features = self.backbone.extract(images)
        return Judged(score_images(features, reference, self.settings, generated_mask=masks), features)

    def measured(
        self, images: Tensor, *, with_distances: bool = True, between: Callable[[], None] = lambda: None
    ) -> Measured:
        """What `choice` needs of candidates (B, 3, H, W) of one shape, on the CPU.

        with_distances: whether a diverse set is to be chosen; otherwise they are left out. between: called before each
        picture of that work; may raise to stop it.
        """
        judged = self.score(images)
        distances = None
        if with_distances:
            mask = self.features((images.shape[-2], images.shape[-1])).structure_mask
            distances = structural_distances(
                judged.features.structure, mask, pool=self.settings.nssm_pool, between=between
            )
        return Measured(
            nssm=judged.scores.nssm.cpu(),
            vsm=judged.scores.vsm.cpu(),
            matches=judged.scores.kept_count.cpu(),
            distances=distances,
        )

    def _at(self, shape: Shape) -> tuple[Reference, ReferenceFeatures, FeatureBatch]:
        if shape not in self._prepared:
            whole = torch.ones(self._rgb.height, self._rgb.width, dtype=torch.bool).numpy()
            mask = whole if self._mask is None else self._mask
            reference = frame_to(self._rgb, mask, *shape)
            own = self.backbone.extract(reference.image[None])
            features = reference_features(own, reference.mask, self.settings, name=self.name)
            self._prepared[shape] = reference, features, own
        return self._prepared[shape]
