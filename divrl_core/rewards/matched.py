"""D_ts: how differently the matched places of a subject lie to each other, wherever it stands and however large it is.

Letters: ``X`` places of the n found cells in the reference (n, 2), ``Y`` their places in the picture. Each is centred
and divided by its Frobenius norm, which takes shift and size away:

    D_ts = 1 - max(0, <X, Y>)^2

Its worth rests on what was found, so it says nothing of parts that were not: hold it together with the coverage.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .correspondence import Correspondence

LEAST_FOUND = 4
"""Fewer places have hardly a shape: D_ts is undefined."""

MIRROR_VALUE = 0.1
"""What a mirror image is paid, whatever its places say: it copies the pose. A shift alone comes to about .03."""

MIRROR_FIT = 0.8
"""A picture is a mirror image when its places, mirrored, fit to so much, and better than as they are."""


def matched_distance(found: Correspondence, *, cap: float = 1.0) -> Tensor:
    """``D_ts = 1 - max(0, <X, Y>)^2`` of each picture, (B,) in [0, cap]; higher = the parts lie differently.

    Args:
        found: of B pictures.
        cap: the most that counts, in (0, 1]; a mere rotation has no end otherwise.

    Returns:
        (B,), float32. NaN = undefined: fewer than `LEAST_FOUND` places, or all at one place. A mirror image gets at
        most `MIRROR_VALUE`.

    Raises:
        ValueError: a cap outside (0, 1].
    """
    if not 0 < cap <= 1:
        raise ValueError(f"cap of the matched distance must lie in (0, 1], got {cap}")
    weight = found.found.double()[..., None]
    reference = _shape_of(found.own.double().expand_as(found.places), weight)
    picture = _shape_of(found.places.double(), weight)
    fit = (reference * picture).sum(dim=(1, 2))
    # Mirrored, a place's column changes its sign; centring commutes with it.
    mirrored = (reference * picture * picture.new_tensor([1.0, -1.0])).sum(dim=(1, 2))
    distance = (1 - fit.clamp_min(0).square()).clamp_min(0)
    is_mirror = (mirrored > fit) & (mirrored.square() >= MIRROR_FIT)
    distance = torch.where(is_mirror, distance.clamp_max(MIRROR_VALUE), distance.clamp_max(cap))
    enough = found.found.sum(dim=1) >= LEAST_FOUND
    return distance.masked_fill(~enough, torch.nan).float()


def _shape_of(places: Tensor, weight: Tensor) -> Tensor:
    """Places (B, M, 2) less their mean and divided by their norm, 0 where the weight is; NaN for a single point."""
    mean = (places * weight).sum(dim=1, keepdim=True) / weight.sum(dim=1, keepdim=True)
    centred = (places - mean) * weight
    return centred / centred.flatten(1).norm(dim=1)[:, None, None]
