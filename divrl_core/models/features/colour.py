"""Colour as a visual feature: OKLab, in which equal distances look equally different, with lightness held small.

Lightness is what shading changes when a subject turns, so it says little about identity; it only has to tell black
from grey from white. OKLab: Björn Ottosson, "A perceptual color space for image processing", 2020.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIGHTNESS_WEIGHT = 0.15
"""Chosen by measurement with the thresholds: docs/calibration.md."""

_LMS_FROM_LINEAR = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB_FROM_ROOTS = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def oklab(images: Tensor) -> Tensor:
    """sRGB pictures (B, 3, H, W) in [0, 1] in OKLab: lightness in [0, 1], then a and b within about 0.4 of 0."""
    linear = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    roots = _mix(linear, _LMS_FROM_LINEAR).clamp_min(0) ** (1 / 3)
    return _mix(roots, _OKLAB_FROM_ROOTS)


def weighted_oklab(images: Tensor) -> Tensor:
    """OKLab with lightness scaled down, so that Euclidean distance is mostly a distance of hue and chroma."""
    weights = torch.tensor((LIGHTNESS_WEIGHT, 1.0, 1.0), device=images.device)
    return oklab(images) * weights[:, None, None]


def _mix(channels: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", torch.tensor(matrix, device=channels.device), channels)
