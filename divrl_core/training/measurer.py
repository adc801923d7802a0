"""One backbone with the references that it has seen: pictures in, measures out, one pass a picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ..models.features.base import Backbone
from ..rewards.features import FeatureBatch
from ..rewards.score import ReferenceFeatures, Scores, reference_features, score_images
from .references import Reference, ReferenceSet

KEPT_REFERENCES = 512
CROPPED = "nssm_cropped"


class Measurer:
    """Measures of pictures against the references of a run. A reference's features are made once and kept."""

    def __init__(self, backbone: Backbone, *, size_px: int) -> None:
        """`size_px`: side at which references are loaded."""
        self.backbone = backbone
        self._size_px = size_px
        self._kept: OrderedDict[str, ReferenceFeatures] = OrderedDict()

    @torch.no_grad()
    def look(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1]."""
        return self.backbone.extract(images)

    def scores(
        self, features: FeatureBatch, references: ReferenceSet, reference_id: str, more: Collection[str] = ()
    ) -> Scores:
        """nSSM, VSM and `more` measures of pictures of one reference."""
        reference = self.reference(references, reference_id, with_crop=CROPPED in more)
        return score_images(features, reference, self.backbone.settings.score, more=more)

    def scores_each(
        self,
        features: FeatureBatch,
        references: ReferenceSet,
        reference_ids: Sequence[str],
        more: Collection[str] = (),
    ) -> Scores:
        """The same of pictures that have each their own reference."""
        rows = enumerate(reference_ids)
        return Scores.cat(
            [
                self.scores(features.select(slice(row, row + 1)), references, reference_id, more)
                for row, reference_id in rows
            ]
        )

    def reference(
        self, references: ReferenceSet, reference_id: str, *, with_crop: bool = False
    ) -> ReferenceFeatures:
        """The reference, prepared; the last ones used are kept. with_crop: for `nssm_cropped`, which keeps more."""
        kept = self._kept.get(reference_id)
        if kept is None or (with_crop and kept.cropped is None):
            reference = references.load(reference_id, self._size_px)
            kept = self.prepare(reference_id, reference, with_crop=with_crop)
        self._kept.move_to_end(reference_id)
        return kept

    def prepare(
        self, reference_id: str, reference: Reference, *, with_crop: bool = False
    ) -> ReferenceFeatures:
        """Make a reference's features and keep them. Raises ValueError when its object is too small for the grid."""
        self._kept[reference_id] = made = reference_features(
            self.look(reference.image[None]),
            reference.mask,
            self.backbone.settings.score,
            name=reference_id,
            with_crop=with_crop,
        )
        if len(self._kept) > KEPT_REFERENCES:
            self._kept.popitem(last=False)
        return made
