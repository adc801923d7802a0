"""nSSM, the negative self-similarity measure: how differently a picture is built than its reference.

Letters (arXiv:2606.23950, eq. 4-7): ``F`` features of the n masked cells (n, C), ``M = F F^T``
self-similarities, ``nSSM = 1 - Pearson(M_gen, M_ref)`` over the entries i != j whose two cells are inside the
reference's mask.

The closed form builds no masked N x N matrix. With ``G = F - mean row``, ``a = G mean`` and ``K = G G^T``, an
entry is ``M_ij = K_ij + a_i + a_j + const`` where K and a sum to zero over every row; so

    sum_ij (M - const)(M' - const') = |G^T G'|_F^2 + 2 n a.a'

(C x C products, or n x n where the mask holds fewer cells than channels), less the diagonal's terms. Taking
the mean row out first removes the cancellation that uncentred sums suffer when all cells are alike: float32
then agrees with the explicit formula to 1e-5 where uncentred it was off by 1e-2. Samples whose M varies by
less than `FLOAT64_BELOW_VARIANCE` are done again from the start in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from .similarity import normalise, resize_mask

FLOAT64_BELOW_VARIANCE = 1e-6
"""Below this variance of M (off the diagonal) float32 products are not fine enough; float64 takes over."""

CONSTANT_BELOW_VARIANCE = 1e-10
"""Below this variance M counts as constant and nSSM as undefined: bfloat16's rounding makes such noise."""


@dataclass(frozen=True)
class Structure:
    """The masked cells of a map and the sums that nSSM needs of them.

    - centred: (n, C), the cells less their mean, G.
    - lean: (n,), how far each cell leans towards the mean, a_i = G_i . mean.
    - diagonal: (n,), M_ii - const.
    - mean, variance: scalars, of M - const off the diagonal.
    - gram: (n, n), K, where n < C; None otherwise.

    All sums are float64; the cells and K are as fine as the features that came in.
    """

    centred: Tensor
    lean: Tensor
    diagonal: Tensor
    mean: Tensor
    variance: Tensor
    gram: Tensor | None


@dataclass(frozen=True)
class ReferenceStructure:
    """A reference's side of nSSM, computed once for all pictures of its group.

    - grid, channels: (h, w) and C of the features before pooling.
    - blocks: (pool * pool, n), the cells of the n blocks inside the mask, as indices into h w.
    - working: the sums on cells in the features' own precision (at least float32).
    - exact: the same sums on cells in float64, for faint structures.
    """

    grid: tuple[int, int]
    channels: int
    blocks: Tensor
    working: Structure
    exact: Structure

    @property
    def variance(self) -> float:
        """Variance of the reference's M off the diagonal; NaN with fewer than 2 cells."""
        return float(self.exact.variance)


def reference_structure(features: Tensor, mask: Tensor, *, pool: int = 1) -> ReferenceStructure:
    """Prepares a reference for `nssm`: normalise, pool, keep the mask's cells, take the sums.

    Args:
        features: visual features (C, h, w) of the reference, not normalised.
        mask: bool (h, w), the object on the features' grid (from `resize_mask`), or already on the pooled
            grid (h/pool, w/pool). On pooling a block is inside when at least half of it is.
        pool: side of the blocks averaged after normalising; 2 takes 48 x 48 to 24 x 24 (training), 1 keeps
            the grid.

    Raises:
        ValueError: features that are not (C, h, w), a pool that does not divide the grid, or a mask of
            another grid.
    """
    if features.ndim != 3:
        raise ValueError(f"reference features must be (C, h, w), got {tuple(features.shape)}")
    channels, height, width = features.shape
    blocks = _blocks_inside(mask, (height, width), pool).to(features.device)
    working = _structure(_cells(features, blocks))
    exact = _structure(_cells(features, blocks, torch.float64))
    return ReferenceStructure((height, width), channels, blocks, working, exact)


def nssm(generated: Tensor, reference: ReferenceStructure) -> Tensor:
    """nSSM of pictures against their reference: ``1 - Pearson(M_gen, M_ref)`` (arXiv:2606.23950, eq. 4-7).

    Args:
        generated: visual features (B, C, h, w), not normalised, on the reference's grid.
        reference: from `reference_structure`.

    Returns:
        (B,) in [0, 2], float32 or better; higher = built more differently, identical maps give 0. NaN =
        undefined: fewer than 3 cells in the mask (2 make only one pair), a constant map (variance of M below
        `CONSTANT_BELOW_VARIANCE`), or features that are not finite inside the mask.

    Raises:
        ValueError: features of another grid or channel count than the reference's.
    """
    expected = (reference.channels, *reference.grid)
    if generated.ndim != 4 or tuple(generated.shape[1:]) != expected:
        raise ValueError(
            f"generated features must match the reference's: expected (B, {', '.join(map(str, expected))}), "
            f"got {tuple(generated.shape)}"
        )
    scores = [_score(picture, reference) for picture in generated]
    dtype = torch.promote_types(generated.dtype, torch.float32)
    return torch.tensor(scores, dtype=dtype, device=generated.device)


def structure_distance(first: ReferenceStructure, second: ReferenceStructure) -> float:
    """``1 - Pearson`` of two pictures' self-similarities, in [0, 2]: nSSM between any two, and the same both ways.

    Both from `reference_structure` with the same cells. NaN = undefined, as in `nssm`.
    """
    ours, theirs = first.working, second.working
    if min(first.variance, second.variance) < FLOAT64_BELOW_VARIANCE:
        ours, theirs = first.exact, second.exact
    is_defined = ours.variance >= CONSTANT_BELOW_VARIANCE and theirs.variance >= CONSTANT_BELOW_VARIANCE
    return _one_minus_pearson(ours, theirs) if is_defined else float("nan")


def _score(picture: Tensor, reference: ReferenceStructure) -> float:
    """nSSM of one picture (C, h, w); one at a time keeps its products in the processor's cache."""
    ours, theirs = _structure(_cells(picture, reference.blocks)), reference.working
    if min(float(ours.variance), reference.variance) < FLOAT64_BELOW_VARIANCE:
        ours, theirs = _structure(_cells(picture, reference.blocks, torch.float64)), reference.exact
    is_defined = ours.variance >= CONSTANT_BELOW_VARIANCE and theirs.variance >= CONSTANT_BELOW_VARIANCE
    return _one_minus_pearson(ours, theirs) if is_defined else float("nan")


def _cells(features: Tensor, blocks: Tensor, least: torch.dtype = torch.float32) -> Tensor:
    """The cells inside the mask, normalised, then averaged over their blocks: (C, h, w) -> (n, C)."""
    inside = features.flatten(1).T.index_select(0, blocks.flatten())
    inside = normalise(inside.to(torch.promote_types(features.dtype, least)), dim=1)
    return inside.reshape(*blocks.shape, features.shape[0]).mean(dim=0)


def _blocks_inside(mask: Tensor, grid: tuple[int, int], pool: int) -> Tensor:
    """Which cells form each block inside the mask: (pool * pool, n) indices into the grid."""
    height, width = grid
    if pool < 1 or height % pool or width % pool:
        raise ValueError(
            f"pool must be at least 1 and divide the feature grid {height} x {width}, got {pool}"
        )
    pooled = (height // pool, width // pool)
    if mask.dtype != torch.bool or tuple(mask.shape) not in (grid, pooled):
        raise ValueError(
            f"mask must match the feature grid: expected bool {grid} or pooled {pooled}, "
            f"got {mask.dtype} {tuple(mask.shape)}; resize it with resize_mask()"
        )
    inside = mask if tuple(mask.shape) == pooled else resize_mask(mask, pooled)
    cells = torch.arange(height * width, device=mask.device).reshape(height, width)
    blocks: Tensor = rearrange(cells, "(h p) (w q) -> (p q) (h w)", p=pool, q=pool)
    return blocks[:, inside.flatten()]


def _structure(cells: Tensor) -> Structure:
    """The sums over the masked cells (n, C)."""
    count, channels = cells.shape
    mean_cell = cells.mean(dim=0)
    centred = cells - mean_cell
    lean = (centred @ mean_cell).double()
    diagonal = centred.square().sum(dim=1).double() + 2 * lean
    gram = centred @ centred.T if count < channels else None
    squares = _square_sum(centred.T @ centred if gram is None else gram) + 2 * count * lean.square().sum()
    # All entries of M - const together sum to zero, so those off the diagonal sum to minus the diagonal.
    mean = -diagonal.sum() / _pairs(count)
    variance = (squares - diagonal.square().sum()) / _pairs(count) - mean.square()
    return Structure(centred, lean, diagonal, mean, variance, gram)


def _one_minus_pearson(ours: Structure, theirs: Structure) -> float:
    """``1 - cov / sqrt(var var')`` off the diagonal, in [0, 2] also after rounding."""
    count = len(ours.lean)
    if ours.gram is None or theirs.gram is None:
        product = _square_sum(ours.centred.T @ theirs.centred)
    else:
        product = torch.einsum("ij,ij->i", ours.gram, theirs.gram).double().sum()
    products = product + 2 * count * ours.lean.dot(theirs.lean) - ours.diagonal.dot(theirs.diagonal)
    covariance = products / _pairs(count) - ours.mean * theirs.mean
    return float((1 - covariance / (ours.variance * theirs.variance).sqrt()).clamp(0, 2))


def _square_sum(matrix: Tensor) -> Tensor:
    """The squared Frobenius norm, rows added up in float64 without a float64 copy."""
    norm_by_row: Tensor = torch.linalg.vector_norm(matrix, dim=1)
    return norm_by_row.double().square().sum()


def _pairs(count: int) -> float:
    """Number of entries off the diagonal; NaN where there are none."""
    return count * (count - 1) or float("nan")
