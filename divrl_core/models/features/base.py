"""What a reward backbone is: a name, its calibrated settings, and pictures in, features out."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...rewards.features import FeatureBatch
from ...rewards.score import ScoreSettings

if TYPE_CHECKING:
    from ...config import BackboneConfig

Precision = Literal["float32", "bfloat16"]

BACKBONES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "lite0": ("lite0", "Lite0Backbone"),
        "lite2": ("lite2", "Lite2Backbone"),
        "mtg": ("mtg", "MtgBackbone"),
        "pocket": ("lite0_heads", "PocketBackbone"),
        "dinov2": ("dinov2", "Dinov2Backbone"),
        "clip": ("clip", "ClipBackbone"),
        "siglip": ("siglip", "SiglipBackbone"),
        "transformers": ("any_vision", "AnyVisionBackbone"),
    }
)
"""The module in this folder and the class of each backbone; imported when it is loaded."""

ONE_AT_A_TIME = frozenset({"mtg"})
"""Backbones that take one picture after the other on every device: their working memory is one picture's."""


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """How a backbone sees pictures and what its scores mean; the defaults of each backbone are calibrated.

    image_size_px: side of the square it sees. score: thresholds of nSSM and VSM. gate: s of eq. 9.
    consistency_cutoff: VSM above which a picture counts as consistent. colour_scale: distance of colours at which
    their similarity is 1/e. weight_s8: share of the stride-8 features in visual similarity, in [0, 1]; the rest is
    colour.
    """

    image_size_px: int
    score: ScoreSettings
    gate: float
    consistency_cutoff: float
    colour_scale: float = 1.0
    weight_s8: float = 0.0


class Backbone(Protocol):
    """A frozen feature extractor. One pass serves both rewards."""

    @property
    def name(self) -> str:
        """The name that chooses it: `reward.backbone.name`."""

    @property
    def source(self) -> str:
        """Model and origin, printed with every figure."""

    @property
    def settings(self) -> BackboneSettings:
        """The settings it runs with."""

    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1], on the backbone's device, without gradients."""


class LoadedBackbone(Backbone, Protocol):
    """A backbone of this folder, which knows how it is made."""

    @property
    def module(self) -> nn.Module:
        """All weights, for those who move or count them."""

    @classmethod
    def load(
        cls, config: BackboneConfig, *, device: str | torch.device = "cpu", precision: Precision = "float32"
    ) -> LoadedBackbone:
        """The pretrained backbone on a device, the user's settings laid over its own."""

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> LoadedBackbone:
        """The same with weights of any value, for plans; called with the meta device as the default."""


def load_backbone(
    config: BackboneConfig, *, device: str | torch.device = "cpu", precision: Precision = "float32"
) -> Backbone:
    """The backbone a configuration names, with its settings laid over the calibrated ones.

    precision: of the network's weights and activations; features always come out in float32.
    Raises ValueError for contradictory settings, FileNotFoundError when its weights are not installed.
    """
    return backbone_class(config).load(config, device=device, precision=precision)


@lru_cache(maxsize=16)
def backbone_grid(config: BackboneConfig, size_px: int) -> tuple[int, int]:
    """The rows and columns of cells that a backbone sees of a square picture; no weights are read.

    Raises ValueError or FileNotFoundError where nothing is known of the network.
    """
    with torch.device("meta"):
        backbone = backbone_class(config).without_weights(config)
        return backbone.extract(torch.zeros(1, 3, size_px, size_px)).grid


def backbone_class(config: BackboneConfig) -> type[LoadedBackbone]:
    """The class of the backbone that a configuration names."""
    module, name = BACKBONES[config.name]
    return cast("type[LoadedBackbone]", getattr(importlib.import_module(f".{module}", __package__), name))


def merge_settings(calibrated: BackboneSettings, config: BackboneConfig) -> BackboneSettings:
    """The calibrated settings with every value that the user set in its place."""
    names = {field.name for field in fields(BackboneSettings)} | {
        field.name for field in fields(ScoreSettings)
    }
    given = {
        field.name: value
        for field in fields(config)
        if field.name in names and (value := getattr(config, field.name)) is not None
    }
    score_names = {field.name for field in fields(ScoreSettings)}
    score = replace(calibrated.score, **{key: value for key, value in given.items() if key in score_names})
    return replace(
        calibrated, score=score, **{key: value for key, value in given.items() if key not in score_names}
    )


def resize_to_square(images: Tensor, size_px: int) -> Tensor:
    """Pictures (B, 3, H, W) as squares (B, 3, S, S): bilinear with antialiasing, aspect not kept, in float32.

    Raises ValueError when they are not pictures in that layout or hold values far outside [0, 1].
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(
            f"pictures must be float (B, 3, H, W) in [0, 1], got {images.dtype} {tuple(images.shape)}"
        )
    images = images.float()
    if images.shape[-2:] == (size_px, size_px):
        return images
    return F.interpolate(images, (size_px, size_px), mode="bilinear", antialias=True, align_corners=False)
