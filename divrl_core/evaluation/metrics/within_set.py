"""Diversity within the set: how the pictures of one question differ from each other.

    set distance = mean over all pairs i < j of d(picture_i, picture_j)

Against the reference alone K copies of one new pose all have the highest score; between them they have none, so a model
that always turns to the same new pose is found out. d is a backbone's structural distance (nSSM between two pictures,
arXiv:2606.23950, eq. 4-6) or LPIPS (arXiv:1801.03924), as in arXiv:1711.11586.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from .base import Shot


def questions_of(shots: Sequence[Shot]) -> list[list[int]]:
    """The places of each question's pictures, questions in the order of their first picture."""
    sets: dict[tuple[str, int], list[int]] = {}
    for row, shot in enumerate(shots):
        sets.setdefault((shot.question.reference_id, shot.question.number), []).append(row)
    return list(sets.values())


def mean_pairwise(rows: Sequence[int], distance: Callable[[int, int], float]) -> float:
    """The mean distance over all pairs of `rows`; undefined pairs are left out, NaN where none is defined."""
    found = [distance(first, second) for first, second in combinations(rows, 2)]
    known = [value for value in found if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def set_means(shots: Sequence[Shot], distance: Callable[[int, int], float]) -> Tensor | None:
    """Mean distance of each question's pictures, (Q,) float32, NaN = undefined; None where all stand alone.

    distance: between the pictures at two places among `shots`.
    """
    sets = questions_of(shots)
    if all(len(rows) < 2 for rows in sets):
        return None
    return torch.tensor([mean_pairwise(rows, distance) for rows in sets], dtype=torch.float32)
