"""Which place of a picture shows which place of the reference's object: mutual nearest neighbours, cell by cell.

Shapes: B pictures, N cells of each, M cells of the reference's object. Places are cell centres as (row, column), in
cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NEIGHBOUR_CELLS = 1.5
"""Cells of the object at most so far apart (centre to centre) are neighbours: the eight around one."""


@dataclass(frozen=True, kw_only=True)
class Correspondence:
    """Of every cell of the object, where it is found in each picture.

    found: bool (B, M). places: (B, M, 2), meaningful where found. own: (M, 2), where the cells are in the reference.
    """

    found: Tensor
    places: Tensor
    own: Tensor

    @property
    def coverage(self) -> Tensor:
        """Share of the object's cells that are found, (B,) in [0, 1]; higher = more of the subject is there."""
        return self.found.double().mean(dim=1).float()


def cell_places(grid: tuple[int, int], *, device: torch.device | str = "cpu") -> Tensor:
    """The centres of a grid's cells, row by row: (h w, 2) as (row, column)."""
    rows, columns = (torch.arange(size, device=device, dtype=torch.float32) + 0.5 for size in grid)
    return torch.cartesian_prod(rows, columns)


def correspondences(
    similarity: Tensor, own: Tensor, grid: tuple[int, int], *, tau_s: float, source_mask: Tensor | None = None
) -> Correspondence:
    """Mutual nearest neighbours whose similarity exceeds tau_s and that go where their neighbours go.

    A cell of the object and a cell of the picture belong together when each is the other's most similar one. Of wrong
    ones most stand alone: a cell whose shift differs from the median shift of its neighbours on the object by more than
    a quarter of the object's size is left out, and so is one that has no neighbour. A limb that moves does so with its
    neighbours.

    Args:
        similarity: semantic similarity (B, N, M) of a picture's cells with the object's.
        own: places of the object's cells (M, 2), from `cell_places` under the mask.
        grid: (h, w) of the pictures, N = h w.
        tau_s: similarity that a pair must exceed.
        source_mask: bool (B, N), the object in the pictures; None = all cells may be found.

    Raises:
        ValueError: shapes that do not belong together.
    """
    batch, sources, targets = similarity.shape
    if sources != grid[0] * grid[1] or own.shape != (targets, 2):
        raise ValueError(
            f"correspondences: expected similarity (B, {grid[0] * grid[1]}, {len(own)}), got {tuple(similarity.shape)}"
        )
    if source_mask is not None:
        similarity = similarity.masked_fill(~source_mask[..., None], -torch.inf)
    best, source = similarity.max(dim=1)  # of every cell of the object, (B, M)
    target_of_source = similarity.argmax(dim=2)
    cells = torch.arange(targets, device=similarity.device).expand(batch, -1)
    found = (target_of_source.gather(1, source) == cells) & (best > tau_s)
    places = cell_places(grid, device=similarity.device)[source]
    return Correspondence(found=found & _goes_along(found, places, own), places=places, own=own)


def _goes_along(found: Tensor, places: Tensor, own: Tensor) -> Tensor:
    """Bool (B, M): whether a cell's shift is near the median shift of its neighbours that are found."""
    apart = torch.cdist(own[None], own[None])[0]
    near = (apart > 0) & (apart <= NEIGHBOUR_CELLS)
    shift = places - own  # (B, M, 2)
    seen = (near & found[:, None, :])[..., None]  # (B, M, M, 1)
    of_neighbours = shift[:, None].expand(-1, len(own), -1, -1).masked_fill(~seen, torch.nan)
    median = of_neighbours.nanmedian(dim=2).values
    size = (own.amax(dim=0) - own.amin(dim=0) + 1).max()
    return (shift - median).norm(dim=-1) <= size / 4  # NaN, without neighbours, is False
