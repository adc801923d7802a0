"""Diversity within a group: a picture is worth more when no other of its group looks like it.

K identical pictures in one new pose all have the highest structural difference from the reference; only the distances
between them tell that they are one picture.
"""

from __future__ import annotations

import torch
from torch import Tensor


def marginal_novelty(distances: Tensor, *, scale: float) -> Tensor:
    """How much each picture adds to its group: ``m_i = -log[((I + S)^-1)_ii]``, ``S_ij = exp(-d_ij^2 / h^2)``.

    It is the marginal gain of log det(I + S): log 2 for a picture like no other, near 0 for one of many copies.

    Args:
        distances: structural distances d within a group (K, K), symmetric, 0 on the diagonal; NaN = undefined.
        scale: h, the distance at which two pictures are half strangers, above 0; fixed for a run.

    Returns:
        (K,) in (0, log 2], float32; NaN for a picture without a defined distance to the others.

    Raises:
        ValueError: distances that are not square, a scale that is not above 0.
    """
    if distances.ndim != 2 or distances.shape[0] != distances.shape[1]:
        raise ValueError(f"marginal_novelty needs distances (K, K), got {tuple(distances.shape)}")
    if scale <= 0:
        raise ValueError(f"marginal_novelty: scale must be above 0, got {scale}")
    count = len(distances)
    others = ~torch.eye(count, dtype=torch.bool, device=distances.device)
    known = (distances.isfinite() | ~others).sum(dim=1) * 2 > count if count > 1 else others.new_ones(count)
    rows = known.nonzero().flatten()
    novelty = torch.full((count,), torch.nan, dtype=torch.float32, device=distances.device)
    if len(rows):
        kept = distances.double()[rows][:, rows].nan_to_num(nan=torch.inf)
        similar = torch.exp(-(kept / scale).square()).fill_diagonal_(1.0)
        inverse = torch.linalg.inv(torch.eye(len(rows), dtype=torch.float64, device=kept.device) + similar)
        novelty[rows] = -inverse.diagonal().log().float()
    return novelty


def novelty_bonus(
    advantages: Tensor, novelty: Tensor, passes: Tensor, group_index: Tensor, *, weight: float
) -> Tensor:
    """Advantages with ``lambda (m_i - mean) / std`` added where a sample passes the gate and did better than its group.

    Mean and population std of the novelty are taken over those samples of the group; a group where fewer than two are,
    or all add alike, is left as it is.

    Args:
        advantages: (B,).
        novelty: m (B,), from `marginal_novelty`; NaN = undefined, nothing is added.
        passes: bool (B,), whether the gate lets a sample through.
        group_index: (B,) integers 0, 1, ...
        weight: lambda, at least 0.

    Returns a new tensor (B,).
    """
    if weight < 0:
        raise ValueError(f"novelty_bonus: weight must be at least 0, got {weight}")
    bonus = torch.zeros_like(advantages, dtype=torch.float64)
    may = passes & (advantages > 0) & novelty.isfinite()
    for group in group_index[may].unique():
        rows = (may & (group_index == group)).nonzero().flatten()
        values = novelty[rows].double()
        spread = values.std(correction=0)
        if len(rows) > 1 and spread > 1e-6:
            bonus[rows] = weight * (values - values.mean()) / spread
    return (advantages.double() + bonus).to(advantages.dtype)
