"""What the reward backbones lite0 and lite2 share: ImageNet features that arrive in a Python package, with no download.

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
from .base import BackboneSettings, Precision, merge_settings, resize_to_square
from .colour import weighted_oklab
from .efficientnet_lite import EfficientNetLite, LiteVariant, fold_batch_norms, imagenet_inputs, load_network

if TYPE_CHECKING:
    from typing_extensions import Self

    from ...config import BackboneConfig


class LiteBackbone:
    """Semantic features and structure from s16, visual features from colour and s8; a subclass names the network."""

    name: str
    variant: LiteVariant
    calibrated: BackboneSettings

    def __init__(
        self,
        network: EfficientNetLite,
        settings: BackboneSettings | None = None,
        *,
        origin: str | None = None,
    ) -> None:
        """`settings`: None = the calibrated ones. `origin`: where the weights are from, None = the package."""
        self.settings = self.calibrated if settings is None else settings
        side = self.settings.image_size_px
        if side % 16:
            raise ValueError(f"{self.name}: image_size_px must be a multiple of 16, got {side}")
        self._network, self._origin = network, origin or self.variant.package
        self.source = f"{self.variant.title}, ImageNet ({self._origin}), s16 and OKLab colour, {side} px"

    @classmethod
    def load(
        cls,
        config: BackboneConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
        weights: Path | None = None,
    ) -> Self:
        """The pretrained backbone on a device, the user's settings laid over the calibrated ones.

        "bfloat16" runs the convolutions in it: twice as fast on CPUs made for it, features 3% off. `weights`: another
        copy of the network's state dict than the package's.
        Raises FileNotFoundError, with the command to run, when the package of the weights is not installed.
        """
        network = fold_batch_norms(load_network(cls.variant, weights)).to(device)
        if precision == "bfloat16":
            network = convert_conv2d_weight_memory_format(network.to(torch.bfloat16), torch.channels_last)
        settings = None if config is None else merge_settings(cls.calibrated, config)
        return cls(network, settings, origin=None if weights is None else weights.name)

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> Self:
        """The same network untrained, for plans."""
        network = fold_batch_norms(EfficientNetLite(cls.variant).eval())
        return cls(network, merge_settings(cls.calibrated, config))

    @property
    def network(self) -> EfficientNetLite:
        """The frozen network, its batch norms folded."""
        return self._network

    @property
    def module(self) -> EfficientNetLite:
        """All weights, for those who move them between devices."""
        return self._network

    def with_settings(self, settings: BackboneSettings) -> Self:
        """The same network under other settings."""
        return type(self)(self._network, settings, origin=self._origin)

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
