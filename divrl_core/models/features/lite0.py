"""Reward backbone lite0: ImageNet features that arrive inside a Python package, with no download.

s16 finds matches and carries the structure; it hardly sees a change of colour, so the visual side is the mean colour
of each s16 cell and, by weight, s8 averaged onto the same grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format

from ...rewards.features import FeatureBatch, VisualFeature
from ...rewards.score import ScoreSettings
from .base import BackboneSettings, Precision, merge_settings, resize_to_square
from .colour import weighted_oklab
from .efficientnet_lite import (
    PACKAGE,
    EfficientNetLite0,
    fold_batch_norms,
    imagenet_inputs,
    load_network,
)

if TYPE_CHECKING:
    from ...config import BackboneConfig

CALIBRATED = BackboneSettings(
    image_size_px=192,
    score=ScoreSettings(tau_s=0.45, tau_v=0.5, nssm_pool=1, agreement="match", one_to_one=True),
    gate=0.55,
    consistency_cutoff=0.6,
    colour_scale=0.08,
    weight_s8=0.0,
)
"""Chosen on true renders of the pocket world: docs/calibration.md."""


class Lite0Backbone:
    """Semantic features and structure from s16, visual features from colour and s8."""

    name = "lite0"

    def __init__(
        self, network: EfficientNetLite0, settings: BackboneSettings = CALIBRATED, *, origin: str = PACKAGE
    ) -> None:
        if settings.image_size_px % 16:
            raise ValueError(f"lite0: image_size_px must be a multiple of 16, got {settings.image_size_px}")
        self.settings = settings
        self.source = (
            f"EfficientNet-Lite0, ImageNet ({origin}), s16 and OKLab colour, {settings.image_size_px} px"
        )
        self._network, self._origin = network, origin

    @classmethod
    def load(
        cls,
        config: BackboneConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
        weights: Path | None = None,
    ) -> Lite0Backbone:
        """The pretrained backbone on a device, the user's settings laid over the calibrated ones.

        "bfloat16" runs the convolutions in it: twice as fast on CPUs made for it, features 3% off. `weights`: another
        copy of the network's state dict than the package's.
        Raises FileNotFoundError, with the command to run, when the package of the weights is not installed.
        """
        network = fold_batch_norms(load_network(weights)).to(device)
        if precision == "bfloat16":
            network = convert_conv2d_weight_memory_format(network.to(torch.bfloat16), torch.channels_last)
        settings = CALIBRATED if config is None else merge_settings(CALIBRATED, config)
        return cls(network, settings) if weights is None else cls(network, settings, origin=weights.name)

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> Lite0Backbone:
        """The same network untrained, for plans."""
        return cls(fold_batch_norms(EfficientNetLite0().eval()), merge_settings(CALIBRATED, config))

    @property
    def network(self) -> EfficientNetLite0:
        """The frozen network, its batch norms folded."""
        return self._network

    @property
    def module(self) -> EfficientNetLite0:
        """All weights, for those who move them between devices."""
        return self._network

    def with_settings(self, settings: BackboneSettings) -> Lite0Backbone:
        """The same network under other settings."""
        return Lite0Backbone(self._network, settings, origin=self._origin)

    @torch.no_grad()
    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1] on a grid of a sixteenth of `image_size_px`, in float32."""
        weight = self._network.conv_stem.weight
        if len(images) > 1 and weight.device.type == "cpu":
            # Same bits; blocks of one picture's size stay with C's allocator, those of a batch go back to the system.
            return FeatureBatch.cat([self.extract(image) for image in images.split(1)])
        images = resize_to_square(images.to(weight.device), self.settings.image_size_px).clamp(0, 1)
        s8, s16 = self._network.taps(imagenet_inputs(images, weight))
        colour = F.avg_pool2d(weighted_oklab(images), 16)
        share = self.settings.weight_s8
        return FeatureBatch(
            semantic=s16.float(),
            structure=s16.float(),
            visual=(
                VisualFeature(
                    name="colour",
                    values=colour,
                    kernel="exponential",
                    scale=self.settings.colour_scale,
                    weight=1 - share,
                ),
                VisualFeature(name="s8", values=F.avg_pool2d(s8.float(), 2), weight=share),
            ),
        )
