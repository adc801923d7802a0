"""Choosing a backbone's thresholds on pictures whose truth is known.

VSM should be high for another view of the same figure and low for other colours or another figure; how well it tells
them apart is an area under the ROC curve (AUC) that no threshold of VSM itself enters. The gate and the consistency
cut-off are then read off the chosen settings' distributions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

from ..models.features.base import Backbone, BackboneSettings
from ..rewards.features import FeatureBatch, VisualFeature
from ..rewards.nssm import nssm
from ..rewards.score import ReferenceFeatures, reference_features, visual_similarity
from ..rewards.similarity import cosine_matrix, to_cells
from ..rewards.vsm import Agreement, vsm
from .calibration_cases import OTHER_SUBJECT, CalibrationCase


class AdjustableBackbone(Backbone, Protocol):
    """A backbone that can be run under other settings."""

    def with_settings(self, settings: BackboneSettings) -> AdjustableBackbone:
        """The same network under other settings."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The settings to try, every combination of them."""

    image_size_px: Sequence[int] = (160, 192, 224)
    tau_s: Sequence[float] = (0.4, 0.45, 0.5, 0.55, 0.6)
    tau_v: Sequence[float] = (0.4, 0.45, 0.5, 0.55, 0.6)
    agreement: Sequence[Agreement] = ("match", "anywhere")
    colour_scale: Sequence[float] = (0.08,)
    weight_s8: Sequence[float] = (0.0, 0.2)


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """What one combination of settings gives.

    nssm, vsm, vsm_std: mean, and spread of VSM, by label. undefined: pictures without a VSM, by label.
    kept_share: matches for each cell of the object, by label. aucs: other view against each label of another subject.
    scores: VSM of every picture, by label.
    """

    settings: BackboneSettings
    count: int
    nssm: dict[str, float]
    vsm: dict[str, float]
    vsm_std: dict[str, float]
    undefined: dict[str, int]
    kept_share: dict[str, float]
    aucs: dict[str, float]
    scores: dict[str, Tensor]

    @property
    def auc(self) -> float:
        """The mean over the labels of another subject."""
        return sum(self.aucs.values()) / len(self.aucs)


def calibrate(
    backbone: AdjustableBackbone, cases: Iterable[CalibrationCase], grid: Grid
) -> list[CalibrationRow]:
    """Scores the cases under every combination of the grid; best mean AUC first. One pass of the network per size."""
    cases = list(cases)
    if not cases:
        raise ValueError("calibrate needs at least one case, got none")
    rows = []
    for size in grid.image_size_px:
        sized = backbone.with_settings(replace(backbone.settings, image_size_px=size))
        seen = [_look(sized, case) for case in cases]
        for scale, weight in product(grid.colour_scale, grid.weight_s8):
            look = replace(sized.settings, colour_scale=scale, weight_s8=weight)
            similarities = [_similarities(one, look) for one in seen]
            for agreement, tau_s, tau_v in product(grid.agreement, grid.tau_s, grid.tau_v):
                score = replace(look.score, agreement=agreement, tau_s=tau_s, tau_v=tau_v)
                rows.append(_row(seen, similarities, replace(look, score=score)))
    return sorted(rows, key=lambda row: -row.auc)


def best_gate(row: CalibrationRow) -> float:
    """The VSM at which other views and other subjects are told apart with the highest balanced accuracy."""
    same, other = row.scores["other view"], torch.cat([row.scores[label] for label in OTHER_SUBJECT])
    same, other = same[~same.isnan()], other[~other.isnan()]
    candidates = torch.arange(1, 100) / 100
    accuracy = torch.stack(
        [((same >= s).float().mean() + (other < s).float().mean()) / 2 for s in candidates]
    )
    best = candidates[accuracy == accuracy.max()]
    return float(best[len(best) // 2])


def share_above(row: CalibrationRow, cutoff: float) -> dict[str, float]:
    """The share of defined pictures of each label whose VSM exceeds a cut-off."""
    defined = {label: scores[~scores.isnan()] for label, scores in row.scores.items()}
    return {label: float((scores > cutoff).float().mean()) for label, scores in defined.items()}


def area_under_curve(high: Tensor, low: Tensor) -> float:
    """The chance that a score of `high` exceeds one of `low`, ties counting half; undefined scores are left out."""
    high, low = high[~high.isnan()], low[~low.isnan()]
    if not len(high) or not len(low):
        return float("nan")
    wins = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
    return float(wins.mean())


@dataclass(frozen=True)
class _Seen:
    """A case as the backbone sees it: features of the other pictures, the reference, nSSM (K,), labels."""

    others: FeatureBatch
    reference: ReferenceFeatures
    nssm: Tensor
    labels: tuple[str, ...]


def _look(backbone: Backbone, case: CalibrationCase) -> _Seen:
    features = backbone.extract(torch.stack([case.reference, *case.others.values()]))
    reference = reference_features(features.select(slice(0, 1)), case.mask, backbone.settings.score)
    others = features.select(slice(1, None))
    return _Seen(others, reference, nssm(others.structure, reference.structure), tuple(case.others))


def _similarities(seen: _Seen, settings: BackboneSettings) -> tuple[Tensor, Tensor]:
    """Semantic and visual similarity of a case's cells, each (K, N, M)."""
    semantic = cosine_matrix(to_cells(seen.others.semantic), seen.reference.semantic)
    generated, target = (_reweighted(side.visual, settings) for side in (seen.others, seen.reference))
    return semantic, visual_similarity(generated, target)


def _row(
    seen: Sequence[_Seen], similarities: Sequence[tuple[Tensor, Tensor]], settings: BackboneSettings
) -> CalibrationRow:
    score = settings.score
    matched = [
        vsm(
            semantic,
            visual,
            source_mask=None,
            target_mask=None,
            tau_s=score.tau_s,
            tau_v=score.tau_v,
            agreement=score.agreement,
            one_to_one=score.one_to_one,
        )
        for semantic, visual in similarities
    ]
    labels = seen[0].labels
    by_label = dict(zip(labels, torch.stack([one.score for one in matched], dim=1).cpu(), strict=True))
    structure = dict(zip(labels, torch.stack([one.nssm for one in seen], dim=1).cpu(), strict=True))
    kept = torch.stack(
        [one.kept.sum(-1) / len(case.reference.semantic) for one, case in zip(matched, seen, strict=True)],
        dim=1,
    )
    return CalibrationRow(
        settings=settings,
        count=len(seen),
        nssm={label: float(values.nanmean()) for label, values in structure.items()},
        vsm={label: float(values.nanmean()) for label, values in by_label.items()},
        vsm_std={label: float(values[~values.isnan()].std()) for label, values in by_label.items()},
        undefined={label: int(values.isnan().sum()) for label, values in by_label.items()},
        kept_share=dict(zip(labels, kept.mean(dim=1).tolist(), strict=True)),
        aucs={
            label: area_under_curve(by_label["other view"], by_label[label])
            for label in OTHER_SUBJECT
            if label in by_label
        },
        scores=by_label,
    )


def _reweighted(features: tuple[VisualFeature, ...], settings: BackboneSettings) -> tuple[VisualFeature, ...]:
    """The same features under another colour scale and share of s8."""
    scales = {"colour": settings.colour_scale}
    weights = {"colour": 1 - settings.weight_s8, "s8": settings.weight_s8}
    return tuple(
        replace(
            feature,
            scale=scales.get(feature.name, feature.scale),
            weight=weights.get(feature.name, feature.weight),
        )
        for feature in features
    )
