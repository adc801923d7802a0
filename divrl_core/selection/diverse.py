"""Sets whose members differ: from each other and from the reference, by structure.

d(a, b) = 1 - Pearson of the two pictures' self-similarities over the cells of the reference's object: nSSM between any
two pictures, so the reference is one more point of the same space. K identical pictures in a new pose all have the
highest nSSM, which sees the reference alone; only a distance between them tells that they are one picture.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..rewards.nssm import reference_structure, structure_distance

MOST_SWAPS = 1000  # of the improvement; it ends long before, each swap makes the set better


def structural_distances(
    structure: Tensor, mask: Tensor, *, pool: int = 1, between: Callable[[], None] = lambda: None
) -> Tensor:
    """Distances between every two pictures: (B, B), float32, symmetric, 0 on the diagonal, in [0, 2].

    Args:
        structure: features that nSSM reads (B, C, h, w).
        mask: bool (h, w) on their grid or the pooled one, the reference's object: `ReferenceFeatures.structure_mask`.
        pool: as in `reference_structure`.
        between: called before each picture; may raise to stop.

    NaN = undefined (a constant map).
    """
    prepared = []
    for picture in structure:
        between()
        prepared.append(reference_structure(picture, mask, pool=pool))
    distances = torch.zeros(len(prepared), len(prepared))
    for row, first in enumerate(prepared):
        between()
        for column, second in enumerate(prepared[:row]):
            distances[row, column] = distances[column, row] = structure_distance(first, second)
    return distances


def spread_set(distances: Tensor, from_reference: Tensor, count: int) -> list[int]:
    """`count` of B pictures that lie farthest from each other and from the reference, by max-min.

    Greedy: first the picture farthest from the reference, then each time the one whose nearest chosen neighbour (the
    reference counts as one) is farthest; then single swaps as long as the least distance within the set grows, or, at
    an equal one, the sum of its members' nearest distances.

    Args:
        distances: (B, B), no NaN.
        from_reference: (B,), no NaN.
        count: between 1 and B.

    Returns the indices, the most distant first. Raises ValueError for another count or undefined distances.
    """
    total = len(from_reference)
    if not 1 <= count <= total:
        raise ValueError(f"spread_set: count must lie in 1..{total}, got {count}")
    if distances.isnan().any() or from_reference.isnan().any():
        raise ValueError("spread_set: distances must be defined; leave undefined pictures out")
    chosen: list[int] = []
    nearest = from_reference.clone()
    for _ in range(count):
        left = nearest.clone()
        left[chosen] = -torch.inf
        pick = int(left.argmax())
        chosen.append(pick)
        nearest = torch.minimum(nearest, distances[pick])
    return _improved(chosen, distances, from_reference)


def set_spread(members: list[int], distances: Tensor, from_reference: Tensor) -> tuple[float, float]:
    """(the least distance within the set and to the reference, the sum of its members' nearest distances)."""
    inside = distances[members][:, members].clone().fill_diagonal_(torch.inf)
    nearest = torch.minimum(inside.amin(dim=1), from_reference[members])
    return float(nearest.min()), float(nearest.sum())


def _improved(chosen: list[int], distances: Tensor, from_reference: Tensor) -> list[int]:
    """The set after the best single swaps, until none makes it better."""
    best = set_spread(chosen, distances, from_reference)
    for _ in range(MOST_SWAPS):
        outside = [index for index in range(len(from_reference)) if index not in chosen]
        swaps = [
            [*chosen[:place], new, *chosen[place + 1 :]] for place in range(len(chosen)) for new in outside
        ]
        scored = [(set_spread(swap, distances, from_reference), swap) for swap in swaps]
        if not scored or (top := max(scored, key=lambda pair: pair[0]))[0] <= best:
            break
        best, chosen = top
    return chosen
