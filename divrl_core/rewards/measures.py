"""What can be measured of pictures beside nSSM and VSM, from the same pass of the backbone.

Shapes: B pictures, N = h w cells of each, M cells of the reference's object.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .correspondence import Correspondence, correspondences
from .cropped import cropped_nssm
from .features import FeatureBatch
from .matched import matched_distance
from .nssm import nssm
from .similarity import cosine_matrix, to_cells

if TYPE_CHECKING:
    from .score import ReferenceFeatures, ScoreSettings

MORE_MEASURES = ("nssm_cropped", "matched", "coverage", "extent", "cosine")

CHUNK_ELEMENTS = 2**24
"""Similarities held at once: 64 MB in float32. A large grid is scored a few pictures at a time."""


def measures_of(features: FeatureBatch) -> tuple[str, ...]:
    """The names of `MORE_MEASURES` that such features can be measured by: the cosine needs a vector of the picture."""
    return tuple(name for name in MORE_MEASURES if name != "cosine" or features.image is not None)


def pictures_at_once(grid: tuple[int, int], targets: int) -> int:
    """How many pictures' similarities with so many cells of the object are held at once; at least 1."""
    return max(1, CHUNK_ELEMENTS // (grid[0] * grid[1] * targets))


def more_measures(
    generated: FeatureBatch,
    reference: ReferenceFeatures,
    settings: ScoreSettings,
    names: Collection[str],
    *,
    masks: Tensor | None = None,
) -> dict[str, Tensor]:
    """The measures of these names, each (B,), NaN = undefined.

    - nssm_cropped: nSSM inside the subject's box, in [0, 2] (cropped.py). Where too few cells are found to make a box
      of, nSSM itself: a picture that has lost its subject has a reward, and a gate can punish it. Of a mask that holds
      too few cells it is undefined.
    - matched: D_ts of the places found, in [0, 1] (matched.py).
    - coverage: share of the object's cells that are found, in [0, 1] (correspondence.py).
    - extent: how many cells of the picture match some cell of the object, for each that does so in the reference's own
      picture; at least 0: near 1 where the subject is as large as there, half where half of it is missing, whichever
      side it shows.
    - cosine: of the whole pictures' vectors, in [-1, 1]; higher = more alike.

    masks: bool (B, h, w), the objects in the pictures, or None. Raises ValueError for an unknown name, and for the
    cosine where the backbone has no vector of the whole picture.
    """
    if unknown := sorted(set(names) - set(MORE_MEASURES)):
        raise ValueError(f"there is no measure {unknown[0]!r}; there are {', '.join(MORE_MEASURES)}")
    measured: dict[str, Tensor] = {}
    if set(names) & {"nssm_cropped", "matched", "coverage"}:
        found = find_cells(generated, reference, settings, masks)
        if "nssm_cropped" in names:
            if reference.cropped is None:
                raise ValueError("nssm_cropped needs a reference that was prepared for it: with_crop=True")
            cropped = cropped_nssm(generated.structure, found, reference.cropped, masks=masks)
            measured["nssm_cropped"] = (
                _or_uncropped(cropped, generated, reference) if masks is None else cropped
            )
        if "matched" in names:
            measured["matched"] = matched_distance(found)
        if "coverage" in names:
            measured["coverage"] = found.coverage
    if "extent" in names:
        cells = matching_cells(generated.semantic, reference.semantic, tau_s=settings.tau_s, masks=masks)
        measured["extent"] = cells / reference.own_extent
    if "cosine" in names:
        if generated.image is None or reference.image is None:
            raise ValueError(
                "the cosine of whole pictures needs a backbone that has a vector of them (dinov2, clip, siglip)"
            )
        measured["cosine"] = F.cosine_similarity(generated.image.float(), reference.image.float())
    return measured


def _or_uncropped(cropped: Tensor, generated: FeatureBatch, reference: ReferenceFeatures) -> Tensor:
    lost = cropped.isnan()
    if not lost.any():
        return cropped
    return cropped.masked_scatter(lost, nssm(generated.structure[lost], reference.structure))


def matching_cells(semantic: Tensor, target: Tensor, *, tau_s: float, masks: Tensor | None = None) -> Tensor:
    """How many cells of each picture match some cell of the object, (B,), float32; NaN where a feature is.

    Args:
        semantic: features (B, C, h, w) of the pictures.
        target: features of the object's cells (M, C).
        tau_s: cosine that counts as a match when exceeded.
        masks: bool (B, h, w), the cells that count; None = all.
    """
    chunk = pictures_at_once((semantic.shape[-2], semantic.shape[-1]), len(target))
    parts = []
    for start in range(0, len(semantic), chunk):
        rows = slice(start, start + chunk)
        best = cosine_matrix(to_cells(semantic[rows]), target).amax(dim=2)
        inside = best > tau_s
        if masks is not None:
            inside = inside & masks[rows].flatten(1).to(inside.device)
        parts.append(inside.float().sum(dim=1).masked_fill(best.isnan().any(dim=1), torch.nan))
    return torch.cat(parts)


def find_cells(
    generated: FeatureBatch,
    reference: ReferenceFeatures,
    settings: ScoreSettings,
    masks: Tensor | None = None,
) -> Correspondence:
    """Where the object's cells are in B pictures, a few pictures at a time. `masks`: bool (B, h, w), or None."""
    chunk = pictures_at_once(generated.grid, len(reference.semantic))
    parts = []
    for start in range(0, len(generated), chunk):
        rows = slice(start, start + chunk)
        parts.append(
            correspondences(
                cosine_matrix(to_cells(generated.semantic[rows]), reference.semantic),
                reference.places,
                generated.grid,
                tau_s=settings.tau_s,
                source_mask=None if masks is None else masks[rows].flatten(1).to(reference.semantic.device),
            )
        )
    return Correspondence(
        found=torch.cat([part.found for part in parts]),
        places=torch.cat([part.places for part in parts]),
        own=reference.places,
    )
