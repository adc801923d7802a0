"""nSSM, VSM and the further measures of a reward backbone, with those of a set and of copies: one pass a picture.

Formulas: rewards/nssm.py and rewards/vsm.py (arXiv:2606.23950, eq. 3-7), rewards/measures.py (nssm_cropped, matched,
coverage, extent, cosine), within_set.py, copy_paste.py. As the paper evaluates: nSSM on the unpooled grid (training
pools MTG's 48 x 48 to 24 x 24) over the reference's mask, VSM with the sources inside the picture's own mask where it
has one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...models.features.base import Backbone, load_backbone
from ...rewards.features import FeatureBatch
from ...rewards.measures import measures_of
from ...rewards.nssm import ReferenceStructure, reference_structure, structure_distance
from ...rewards.score import ReferenceFeatures, ScoreSettings, score_images
from ...selection.judge import Judge
from .base import Direction, Family, Metric, Shot, Subject, Values
from .copy_paste import copy_columns, copy_metrics
from .shown import Batch, Columns, Shape, batches, views_at
from .within_set import questions_of, set_means

if TYPE_CHECKING:
    from ...config import BackboneConfig

WITH_PICTURE_VECTOR = ("dinov2", "clip", "siglip", "transformers")
"""Backbones that have a vector of the whole picture, so a cosine."""

SHORT_NAMES = {"mtg": "MTG", "dinov2": "DINOv2", "clip": "CLIP", "siglip": "SigLIP"}

# name, label without the backbone, meaning, which way is better, family
_MEASURES: tuple[tuple[str, str, str, Direction, Family], ...] = (
    ("vsm", "VSM", "share of the matched parts of the subject that look like the reference's", "higher", "identity"),
    ("nssm", "nSSM", "how differently the picture is built than the reference, over its mask", "higher", "structure"),
    ("nssm_cropped", "nSSM in the box", "the same in the subject's box, size and place aside", "higher", "structure"),
    ("matched", "matched places", "how differently the matched places lie to each other", "higher", "structure"),
    ("coverage", "coverage", "share of the reference's subject that is found again", "neither", "quality"),
    ("extent", "extent", "how many cells show the subject, for one of the reference", "neither", "quality"),
    ("cosine", "cosine", "cosine of whole pictures", "higher", "identity"),
)  # fmt: skip


@dataclass
class PreparedReference:
    """One reference under one backbone: its features, made once a shape, and those of its further views."""

    subject: Subject
    judge: Judge
    views: dict[Shape, list[ReferenceStructure]] = field(default_factory=dict)


class BackboneScorer:
    """All measures of one backbone. prefix: before the names of its columns, where several are taken."""

    def __init__(
        self, backbone: Backbone, *, prefix: str = "", settings: ScoreSettings | None = None
    ) -> None:
        """settings: None = the backbone's own, on the unpooled grid."""
        self.backbone = backbone
        self.settings = settings or replace(backbone.settings.score, nssm_pool=1)
        self.name = f"{prefix}backbone"
        self._prefix = prefix
        self.metrics = backbone_metrics(backbone.name, prefix)

    @classmethod
    def load(cls, config: BackboneConfig, *, prefix: str = "", device: str = "cpu") -> BackboneScorer:
        """The backbone that the settings name; nSSM is pooled only where they say so."""
        backbone = load_backbone(config, device=device)
        settings = replace(backbone.settings.score, nssm_pool=config.nssm_pool or 1)
        return cls(backbone, prefix=prefix, settings=settings)

    @property
    def source(self) -> str:
        """The backbone with its thresholds, and which masks are looked at."""
        pooled = "unpooled" if self.settings.nssm_pool == 1 else f"pooled by {self.settings.nssm_pool}"
        return (
            f"{self.backbone.source}, tau_s {self.settings.tau_s:g}, tau_v {self.settings.tau_v:g}, nSSM {pooled} over "
            "the reference's mask, VSM inside the picture's own mask where there is one"
        )

    @property
    def consistency_cutoff(self) -> float:
        """VSM above which a picture is consistent."""
        return self.backbone.settings.consistency_cutoff

    def prepare(self, subject: Subject) -> PreparedReference:
        """Nothing goes through the network before the pictures' shape is known; then the reference does, once."""
        rgb, mask = subject.picture.convert("RGB"), subject.mask.numpy()
        judge = Judge(self.backbone, rgb, mask, settings=self.settings, name=subject.reference_id)
        return PreparedReference(subject, judge)

    @torch.no_grad()
    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Raises ValueError, naming the reference, where its mask is too small for the backbone's grid."""
        assert isinstance(prepared, PreparedReference)
        columns = Columns(len(shots))
        structures: dict[int, tuple[Shape, ReferenceStructure]] = {}
        stand_alone = all(len(rows) < 2 for rows in questions_of(shots))
        for batch in batches(shots):
            features = self.backbone.extract(batch.images)
            reference = prepared.judge.features(batch.shape)
            columns.put(batch.rows, self._measured(batch, features, reference))
            if stand_alone and not prepared.subject.views:
                continue
            own = self._structures(features, reference)
            columns.put(batch.rows, self._copies(prepared, batch.shape, reference, own))
            structures.update((row, (batch.shape, one)) for row, one in zip(batch.rows, own, strict=True))
        apart = set_means(shots, lambda first, second: _apart(structures[first], structures[second]))
        within = {} if apart is None else {f"{self._prefix}set_distance": apart}
        return {**columns.found, **within}

    def _measured(
        self, batch: Batch, features: FeatureBatch, reference: ReferenceFeatures
    ) -> Mapping[str, Tensor]:
        scores = score_images(
            features, reference, self.settings, generated_mask=batch.masks, more=measures_of(features)
        )
        found = dict(scores.by_name)
        if batch.masks is not None:
            # inside masks on both sides: of the reference's own cells every one matches itself
            found["extent"] = found["extent"] * (reference.own_extent / len(reference.semantic))
        return {self._prefix + name: values for name, values in found.items()}

    def _structures(self, features: FeatureBatch, reference: ReferenceFeatures) -> list[ReferenceStructure]:
        pool = self.settings.nssm_pool
        return [reference_structure(one, reference.structure_mask, pool=pool) for one in features.structure]

    def _copies(
        self,
        prepared: PreparedReference,
        shape: Shape,
        reference: ReferenceFeatures,
        own: Sequence[ReferenceStructure],
    ) -> Mapping[str, Tensor]:
        """The copy measures of these pictures; none where the subject has no further view."""
        if not prepared.subject.views:
            return {}
        if shape not in prepared.views:
            seen = self.backbone.extract(views_at(prepared.subject, shape))
            prepared.views[shape] = self._structures(seen, reference)
        views = prepared.views[shape]
        return copy_columns(
            self._prefix,
            _cosines(own, [reference.structure])[:, 0],
            _cosines(own, views),
            _cosines(views, [reference.structure])[:, 0],
        )


def backbone_metrics(backbone: str, prefix: str = "") -> tuple[Metric, ...]:
    """The columns of a backbone, by its name."""
    of = SHORT_NAMES.get(backbone, backbone)
    found = [
        Metric(
            name=prefix + name,
            label=f"{of}-{label}" if (backbone, name) == ("mtg", "nssm") else f"{label} ({of})",
            meaning=meaning,
            better=better,
            family=family,
            counts_style=False,
        )
        for name, label, meaning, better, family in _MEASURES
        if name != "cosine" or backbone in WITH_PICTURE_VECTOR
    ]
    within = Metric(
        name=f"{prefix}set_distance",
        label=f"structure within the set ({of})",
        meaning="mean nSSM between the pictures of one question",
        better="higher",
        family="within the set",
        of_sets=True,
        counts_style=False,
    )
    return (*found, within, *copy_metrics(prefix, f"{of} structure"))


def _apart(first: tuple[Shape, ReferenceStructure], second: tuple[Shape, ReferenceStructure]) -> float:
    """Between pictures of one shape; of others the cells of the reference's mask are not the same."""
    return structure_distance(first[1], second[1]) if first[0] == second[0] else float("nan")


def _cosines(first: Sequence[ReferenceStructure], second: Sequence[ReferenceStructure]) -> Tensor:
    """Pearson's correlation of every two self-similarity maps: (A, B), float64."""
    rows = [[1 - structure_distance(one, other) for other in second] for one in first]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(first), len(second))
