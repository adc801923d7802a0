"""What a segmenter is: a name, pictures in, masks of their subject out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from ...config import SegmenterConfig
    from .files import SegmenterFiles


class Segmenter(Protocol):
    """A frozen model that tells the subject from the rest."""

    @property
    def name(self) -> str:
        """What the user named: a folder, a hub id or a file."""

    @property
    def source(self) -> str:
        """Model, and the rule by which a subject is found; told where masks are counted."""

    @property
    def module(self) -> nn.Module | None:
        """All weights, for those who move them; None where another library holds them."""

    def masks(self, pictures: Tensor) -> Tensor:
        """Bool (B, H, W), True on the subject, of pictures (B, 3, H, W) in [0, 1]; all False where nothing is found."""


def load_segmenter(
    config: SegmenterConfig, *, found: SegmenterFiles | None = None, device: str | torch.device = "cpu"
) -> Segmenter:
    """The segmenter that the settings name, on a device.

    `found`: what `find_segmenter` found, where it was asked before. Raises FileNotFoundError, ValueError or ImportError
    in one line when it cannot be had.
    """
    from .files import find_segmenter

    found = found or find_segmenter(config)
    device = torch.device(device)
    if found.kind == "onnx":
        from .onnx_masks import OnnxSegmenter

        return OnnxSegmenter.load(found, config, device)
    from .transformers_masks import load_transformers

    return load_transformers(found, config, device)


def checked_pictures(pictures: Tensor) -> Tensor:
    """The pictures, if they are float (B, 3, H, W). Raises ValueError otherwise."""
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ValueError(
            f"pictures must be float (B, 3, H, W) in [0, 1], got {pictures.dtype} {tuple(pictures.shape)}"
        )
    return pictures.float().clamp(0, 1)


def flags_of(saliency: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """Bool (B, height, width): where the saliency (B, h, w) in [0, 1], resized to the picture, is above the threshold.

    Bilinear between the centres of cells: at threshold 1/2 a straight edge between 0 and 1 stays where it is, to the
    pixel, at any whole factor.
    """
    saliency = saliency[:, None].float()
    if saliency.shape[-2:] != (height, width):
        saliency = F.interpolate(saliency, (height, width), mode="bilinear", align_corners=False)
    return (saliency[:, 0] > threshold).cpu()
