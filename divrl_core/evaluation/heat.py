"""A heat map over a picture: the picture grey and light, and over it colours from none to the strongest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Where the scale's colours stand, from 0 to 1; what they are, ever darker; how much of the ground each covers.
_STOPS = (0.0, 0.3, 0.6, 0.8, 1.0)
_COLOURS = ((255, 196, 100), (253, 170, 72), (227, 74, 51), (170, 20, 40), (84, 0, 30))
_COVER = (0.0, 0.62, 0.8, 0.86, 0.9)
_DARKEST, _LIGHTEST = 150, 245  # of the ground
_MIDDLE = 205  # under the scale itself


def heat_map(
    picture: Image.Image,
    weights: NDArray[np.float64],
    size: tuple[int, int],
    *,
    strongest: float | None = None,
) -> Image.Image:
    """The picture in (width, height) `size` with the weights (rows, columns) over it, a rectangle for each.

    `strongest` has the scale's last colour (None: the largest weight); where all are 0 the ground alone is seen.
    """
    strongest = float(weights.max()) if strongest is None else strongest
    shares = Image.fromarray((weights / strongest if strongest > 0 else weights).astype(np.float32))
    grey = picture.convert("L").resize(size, Image.Resampling.LANCZOS)
    ground = _DARKEST + np.asarray(grey, dtype=np.float64) / 255 * (_LIGHTEST - _DARKEST)
    return _covered(ground, np.asarray(shares.resize(size, Image.Resampling.NEAREST), dtype=np.float64))


def heat_scale(size: tuple[int, int]) -> Image.Image:
    """The scale in (width, height) `size`, from 0 at the left to the strongest at the right."""
    width, height = size
    return _covered(np.full((height, width), float(_MIDDLE)), np.tile(np.linspace(0, 1, width), (height, 1)))


def _covered(ground: NDArray[np.float64], shares: NDArray[np.float64]) -> Image.Image:
    """Grey levels (H, W) under the colours of shares (H, W)."""
    channels = [np.interp(shares, _STOPS, channel) for channel in zip(*_COLOURS, strict=True)]
    cover = np.interp(shares, _STOPS, _COVER)[..., None]
    mixed = ground[..., None] * (1 - cover) + np.stack(channels, axis=-1) * cover
    return Image.fromarray(mixed.round().astype(np.uint8))
