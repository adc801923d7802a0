"""Which pixels of two renders of one figure show the same surface point."""

from __future__ import annotations

import numpy as np

from .render import Render
from .solids import Array


def correspondences(source: Render, target: Render, *, tolerance: float = 0.03) -> Array:
    """Exact matches between two renders of one identity: (M, 4) rows (source y, source x, target y, target x).

    A source pixel's surface point is carried by its part's frame into the target's world, projected, and kept where
    the target shows the same part at the same depth (within `tolerance`, world units).
    """
    size = source.parts.shape[0]
    ys, xs = np.nonzero(source.parts >= 0)
    matches = []
    for index, solid in enumerate(target.solids):
        here = source.parts[ys, xs] == index
        if not here.any():
            continue
        world = solid.to_world(source.local[ys[here], xs[here]])
        x, y, distance = target.cameras.project(world)
        column = np.floor((x + 1) / 2 * size).astype(int)
        row = np.floor((y + 1) / 2 * size).astype(int)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        row_in, column_in = np.clip(row, 0, size - 1), np.clip(column, 0, size - 1)
        same_part = target.parts[row_in, column_in] == index
        same_depth = np.abs(target.depth[row_in, column_in] - distance) < tolerance
        good = inside & same_part & same_depth
        matches.append(np.stack([ys[here][good], xs[here][good], row[good], column[good]], axis=1))
    return np.concatenate(matches) if matches else np.zeros((0, 4), dtype=int)
