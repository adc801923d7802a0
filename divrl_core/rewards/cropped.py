"""nSSM with both pictures cropped to their subject: where it stands and how large it is no longer count.

The feature map is cut to the box of the subject's cells and resampled to the size of the reference's box; there nSSM
reads the cells of the reference's object as ever. The picture goes through the backbone once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .correspondence import Correspondence
from .nssm import ReferenceStructure, nssm, reference_structure

LEAST_FOUND = 4


@dataclass(frozen=True)
class CroppedReference:
    """A reference's side of `cropped_nssm`: its structure inside its own box; size: the box's (height, width)."""

    size: tuple[int, int]
    structure: ReferenceStructure


def cropped_reference(features: Tensor, mask: Tensor) -> CroppedReference:
    """Prepares a reference: structure features (C, h, w) and its object, bool (h, w), on their grid, not empty."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
    inside = mask[box]
    structure = reference_structure(features[:, box[0], box[1]], inside.to(features.device))
    return CroppedReference((inside.shape[0], inside.shape[1]), structure)


def cropped_nssm(
    generated: Tensor, found: Correspondence, reference: CroppedReference, *, masks: Tensor | None = None
) -> Tensor:
    """nSSM (arXiv:2606.23950, eq. 4-7) between what is inside the subject's box in each picture and in the reference.

    Args:
        generated: structure features (B, C, h, w).
        found: where the object's cells are in the pictures; their box is the subject's.
        reference: from `cropped_reference`.
        masks: bool (B, h, w), the subjects in the pictures; where given, their boxes are taken instead.

    Returns:
        (B,) in [0, 2], higher = built more differently; NaN = undefined: fewer than `LEAST_FOUND` cells to make a box
        from, or as in `nssm`.
    """
    crops, known = [], []
    for row, picture in enumerate(generated):
        box = _box_of_mask(masks[row]) if masks is not None else _box_of_places(found, row)
        known.append(box is not None)
        crops.append(_resampled(picture, box or (0, 0, *picture.shape[-2:]), reference.size))
    scores = nssm(torch.stack(crops), reference.structure)
    return scores.masked_fill(~torch.tensor(known, device=scores.device), torch.nan)


def _box_of_places(found: Correspondence, row: int) -> tuple[float, float, float, float] | None:
    """(top, left, bottom, right) in cells of the places found; None where there are too few."""
    places = found.places[row][found.found[row]]
    if len(places) < LEAST_FOUND:
        return None
    (top, left), (bottom, right) = (places.amin(dim=0) - 0.5).tolist(), (places.amax(dim=0) + 0.5).tolist()
    return top, left, bottom, right


def _box_of_mask(mask: Tensor) -> tuple[float, float, float, float] | None:
    if int(mask.sum()) < LEAST_FOUND:
        return None
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)


def _resampled(features: Tensor, box: tuple[float, float, float, float], size: tuple[int, int]) -> Tensor:
    """The part of a map (C, h, w) inside a box, bilinear, as (C, *size)."""
    height, width = features.shape[-2:]
    top, left, bottom, right = box
    rows = top + (torch.arange(size[0], device=features.device) + 0.5) * ((bottom - top) / size[0])
    columns = left + (torch.arange(size[1], device=features.device) + 0.5) * ((right - left) / size[1])
    at = torch.stack(
        [
            (2 * columns / width - 1).expand(size[0], -1),
            (2 * rows / height - 1)[:, None].expand(-1, size[1]),
        ],
        dim=-1,
    )
    return F.grid_sample(
        features[None].float(), at[None].float(), mode="bilinear", padding_mode="border", align_corners=False
    )[0]
