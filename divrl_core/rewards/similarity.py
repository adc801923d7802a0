"""Feature grids and how alike their cells are.

Shapes: feature maps (B, C, h, w); cells (B, N, C) with N = h w, row by row; masks bool, True inside the
object. Everything is computed in float32 or better, whatever dtype the features come in.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def normalise(features: Tensor, dim: int) -> Tensor:
    """Features scaled to length 1 along `dim`, in float32 or better; a zero vector stays zero."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    unit: Tensor = torch.nn.functional.normalize(features, dim=dim)
    return unit


def to_cells(features: Tensor) -> Tensor:
    """A feature map (..., C, h, w) as a list of its cells (..., h w, C), row by row."""
    cells: Tensor = rearrange(features, "... c h w -> ... (h w) c")
    return cells


def pool_grid(features: Tensor, factor: int) -> Tensor:
    """Averages factor x factor blocks of cells: (B, C, h, w) -> (B, C, h/factor, w/factor).

    Pooled vectors are not normalised again (arXiv:2606.23950, eq. 7).

    Raises:
        ValueError: a factor below 1, or one that does not divide the grid.
    """
    if factor < 1:
        raise ValueError(f"pool_grid: factor must be at least 1, got {factor}")
    height, width = features.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(f"pool_grid: factor {factor} must divide the feature grid, got {height} x {width}")
    return features if factor == 1 else torch.nn.functional.avg_pool2d(features, factor)


def resize_mask(mask: Tensor, grid: tuple[int, int], min_coverage: float = 0.5) -> Tensor:
    """A pixel mask on a feature grid: a cell is inside when enough of its area is.

    Coverage is exact, also where the grid does not divide the picture.

    Args:
        mask: bool (H, W) or (B, H, W), True inside the object.
        grid: (h, w) of the features.
        min_coverage: least share of a cell's area inside the mask, in (0, 1].

    Returns:
        bool (h, w) or (B, h, w).

    Raises:
        ValueError: a mask that is not bool or has another rank, or a coverage outside (0, 1].
    """
    if mask.dtype != torch.bool or mask.ndim not in (2, 3):
        raise ValueError(
            f"resize_mask: mask must be bool (H, W) or (B, H, W), got {mask.dtype} {tuple(mask.shape)}; "
            "compare it with a threshold first"
        )
    if not 0 < min_coverage <= 1:
        raise ValueError(f"resize_mask: min_coverage must lie in (0, 1], got {min_coverage}")
    rows = _overlap(mask.shape[-2], grid[0]).to(mask.device, torch.float32)
    columns = _overlap(mask.shape[-1], grid[1]).to(mask.device, torch.float32)
    coverage = rows @ mask.float() @ columns.T
    # A coverage of one half is reached also when its sum of shares rounds to a hair below.
    return coverage >= min_coverage - 1e-5


def cosine_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of each image's cells with one other's: (B, N, C), (M, C) -> (B, N, M) in [-1, 1]."""
    _check_channels("cosine_matrix", a, b)
    return normalise(a, dim=-1) @ normalise(b, dim=-1).T


def exponential_matrix(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """Closeness ``exp(-|a_i - b_j| / scale)`` of cells: (B, N, C), (M, C) -> (B, N, M) in (0, 1], 1 = equal.

    Args:
        a: cells of the images, e.g. mean colours.
        b: cells of the one image they are compared with.
        scale: distance at which closeness has fallen to 1/e, in the features' unit, above 0.
    """
    _check_channels("exponential_matrix", a, b)
    if scale <= 0:
        raise ValueError(f"exponential_matrix: scale must be above 0, got {scale}")
    dtype = torch.promote_types(a.dtype, torch.float32)
    # Distances by subtraction: the matrix-product route gives equal cells a distance above 0.
    distance = torch.cdist(
        a.to(dtype), b.to(dtype).expand(a.shape[0], -1, -1), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return torch.exp(-distance / scale)


def self_similarity(features: Tensor) -> Tensor:
    """The explicit self-similarity matrix ``M = F F^T`` of cells as they are: (N, C) -> (N, N) (eq. 4)."""
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features @ features.T


def _overlap(pixels: int, cells: int) -> Tensor:
    """Share of each cell's length that each pixel covers along one axis: (cells, pixels), rows sum to 1."""
    size = pixels / cells
    start = torch.arange(cells, dtype=torch.float64)[:, None] * size
    pixel = torch.arange(pixels, dtype=torch.float64)[None]
    length = torch.minimum(start + size, pixel + 1) - torch.maximum(start, pixel)
    return length.clamp_min(0) / size


def _check_channels(where: str, a: Tensor, b: Tensor) -> None:
    if a.ndim != 3 or b.ndim != 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"{where}: expected cells (B, N, C) and (M, C) with the same C, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
