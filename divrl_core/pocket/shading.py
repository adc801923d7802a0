"""Paint, light and floor of the pocket world: pure functions of surface points."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from .figures import COLOURS, Identity
from .solids import Array, Solid

PIXEL_FILTER_PX = 0.7  # standard deviation of the Gaussian that every picture is seen through


def paint(identity: Identity, solid: Solid, local: Array) -> Array:
    """Surface colours; the pattern lives in the part's own coordinates, so that it turns with the figure."""
    slots = {"white": (0.95, 0.94, 0.91), "dark": (0.08, 0.08, 0.10)}
    for slot in ("primary", "secondary", "accent"):
        slots[slot] = COLOURS[getattr(identity, slot)]
    first = np.array(slots["primary" if solid.colour == "pattern" else solid.colour], dtype=np.float32)
    if solid.colour != "pattern" or identity.pattern == "plain":
        return np.broadcast_to(first, local.shape)
    second = np.array(slots["secondary"], dtype=np.float32)
    if identity.pattern == "striped":
        along = local[:, 0] if solid.kind == "cone" or solid.radii[0] >= solid.radii[1] else local[:, 1]
        is_second = np.sin(along * 11.0 + 0.8) > 0.15
    elif identity.pattern == "spotted":
        cell = local / 0.42 + np.array([0.5, 0.25, 0.5])
        is_second = np.linalg.norm(cell - np.floor(cell) - 0.5, axis=1) < 0.40
    else:  # two-tone: belly against back
        is_second = (
            (local[:, 1] < -0.02) if solid.kind == "ellipsoid" else (local[:, 0] > solid.radii[2] * 0.5)
        )
    return np.where(is_second[:, None], second, first)


def shade(albedo: Array, normal: Array, ray: Array, height: Array, light: Array, gloss: float) -> Array:
    """Lambert and sky light with a soft highlight, the look of painted wood; all arrays (N, 3), `height` (N,)."""
    lambert = np.maximum(np.einsum("nc,nc->n", normal, light), 0)
    sky = 0.5 + 0.5 * normal[:, 1]
    near_floor = np.clip(height / 0.35, 0, 1)
    strength = (0.30 + 0.26 * sky) * (0.72 + 0.28 * near_floor) + 0.52 * lambert
    half = light - ray
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    shine = np.maximum(np.einsum("nc,nc->n", normal, half), 0) ** 40
    rim = (1 - np.maximum(-np.einsum("nc,nc->n", normal, ray), 0)) ** 3 * 0.10
    return albedo * strength[:, None] + (shine * gloss + rim * sky)[:, None]


def pixel_filter(images: Array, sigma_px: float = PIXEL_FILTER_PX) -> Array:
    """A Gaussian over (P, H, H, 3), edges repeated: soft enough for a VAE of 8 x 8 pixels a cell."""
    matrix = _gaussian(images.shape[1], sigma_px)
    down = np.tensordot(matrix, images, axes=(1, 1))  # (H, P, W, 3)
    across = np.tensordot(matrix, down, axes=(1, 2))  # (W, H, P, 3)
    return across.transpose(2, 1, 0, 3)


@lru_cache
def _gaussian(size: int, sigma_px: float) -> Array:
    """The filter along one axis as a matrix (size, size)."""
    reach = math.ceil(4 * sigma_px)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma_px**2))
    weights /= weights.sum()
    matrix = np.zeros((size, size), dtype=np.float32)
    for row in range(size):
        source = np.clip(np.arange(row - reach, row + reach + 1), 0, size - 1)
        np.add.at(matrix[row], source, weights.astype(np.float32))
    return matrix
