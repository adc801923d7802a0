"""Reward backbone `pocket`: EfficientNet-Lite0 under two small heads that know the pocket world's correspondences.

As in Mind-the-Glitch (arXiv:2509.21989) one head finds the same place on the subject however it is turned and painted
(semantic), the other says whether that place looks the same (visual); here both were learned from exact
correspondences of renders (`divrl_core/pocket/train_heads.py`). Structure is s16 itself, as in lite0.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from ...rewards.features import FeatureBatch, VisualFeature
from ...rewards.score import ScoreSettings
from ..model_names import POCKET_FOLDER
from .base import BackboneSettings, Precision, merge_settings, resize_to_square
from .colour import weighted_oklab
from .efficientnet_lite import LITE0, EfficientNetLite, fold_batch_norms, imagenet_inputs
from .lite0 import Lite0Backbone

if TYPE_CHECKING:
    from ...config import BackboneConfig

HEADS_FILE = POCKET_FOLDER / "reward_heads" / "model.safetensors"
S8_CHANNELS, S16_CHANNELS = 40, 112
BLOCKS_A_SIDE = 4  # of colour in a cell of s16
COLOUR_CHANNELS = 12  # of a cell of s8: four blocks

CALIBRATED = BackboneSettings(
    image_size_px=192,
    score=ScoreSettings(tau_s=0.7, tau_v=0.4, nssm_pool=2, agreement="match", one_to_one=True),
    gate=0.8,
    consistency_cutoff=0.8,
)
"""Chosen on true renders of the pocket world: docs/calibration.md."""


class CorrespondenceHeads(nn.Module):
    """Semantic (B, 64, 2h, 2w) and visual (B, 32, 2h, 2w) features of `head_inputs`, on the grid of s8.

    What a place is needs its surroundings: s16 through 3 x 3 cells, sharpened by s8. How it looks is local: s8 and
    colour, and a little of s16.
    """

    def __init__(self, width: int = 128, semantic: int = 64, visual: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.coarse_norm = nn.BatchNorm2d(S16_CHANNELS, affine=False)
        self.fine_norm = nn.BatchNorm2d(S8_CHANNELS + COLOUR_CHANNELS, affine=False)
        self.context = nn.Sequential(
            nn.Conv2d(S16_CHANNELS, width, 1),
            nn.GELU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.hint = nn.Conv2d(S16_CHANNELS, width // 2, 1)
        self.semantic = _perceptron(width + S8_CHANNELS, width, semantic, dropout)
        self.visual = _perceptron(width // 2 + S8_CHANNELS + COLOUR_CHANNELS, width, visual, dropout)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Both features of packed inputs (B, 320, h, w)."""
        coarse, s8, colour = unpacked(inputs)
        coarse = self.coarse_norm(coarse)
        fine = self.fine_norm(torch.cat([s8, colour], dim=1))
        context, hint = (
            F.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
            for values in (self.context(coarse), self.hint(coarse))
        )
        semantic = self.semantic(torch.cat([context, fine[:, :S8_CHANNELS]], dim=1))
        return semantic, self.visual(torch.cat([hint, fine], dim=1))


def _perceptron(inside: int, width: int, outside: int, dropout: float) -> nn.Sequential:
    """Two hidden layers, cell by cell."""
    return nn.Sequential(
        nn.Conv2d(inside, width, 1),
        nn.GELU(),
        nn.Dropout2d(dropout),
        nn.Conv2d(width, width, 1),
        nn.GELU(),
        nn.Conv2d(width, outside, 1),
    )


def unpacked(inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s16 (B, 112, h, w), s8 (B, 40, 2h, 2w) and colour (B, 12, 2h, 2w), four blocks a cell, of packed inputs."""
    s16, s8, colour = inputs.split([S16_CHANNELS, 4 * S8_CHANNELS, 3 * BLOCKS_A_SIDE**2], dim=1)
    return (
        s16,
        rearrange(s8, "b (i j c) h w -> b c (h i) (w j)", i=2, j=2),
        rearrange(colour, "b (i y j x c) h w -> b (y x c) (h i) (w j)", i=2, y=2, j=2, x=2),
    )


@torch.no_grad()
def head_inputs(network: EfficientNetLite, images: Tensor, size_px: int) -> Tensor:
    """What the heads see of pictures (B, 3, H, W) in [0, 1]: (B, 320, h, w) in float32.

    Packed on the grid of s16, a cell for 16 px of `size_px`: s16, s8 in its four quarters, OKLab in its 4 x 4 blocks.
    """
    weight = network.conv_stem.weight
    images = resize_to_square(images.to(weight.device), size_px).clamp(0, 1)
    s8, s16 = network.taps(imagenet_inputs(images, weight))
    colour = F.avg_pool2d(weighted_oklab(images), 16 // BLOCKS_A_SIDE)
    quarters = rearrange(s8.float(), "b c (h i) (w j) -> b (i j c) h w", i=2, j=2)
    blocks = rearrange(colour, "b c (h i) (w j) -> b (i j c) h w", i=BLOCKS_A_SIDE, j=BLOCKS_A_SIDE)
    return torch.cat([s16.float(), quarters, blocks], dim=1)


class PocketBackbone:
    """Semantic and visual features from the heads, structure from s16."""

    name = "pocket"

    def __init__(
        self, network: EfficientNetLite, heads: CorrespondenceHeads, settings: BackboneSettings = CALIBRATED
    ) -> None:
        if settings.image_size_px % 16:
            raise ValueError(f"pocket: image_size_px must be a multiple of 16, got {settings.image_size_px}")
        self.settings = settings
        self.source = (
            "EfficientNet-Lite0 under heads trained on the pocket world's correspondences, "
            f"{settings.image_size_px} px"
        )
        self._network, self._heads = network, heads

    @classmethod
    def load(
        cls,
        config: BackboneConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "float32",
        heads: Path = HEADS_FILE,
    ) -> PocketBackbone:
        """The backbone on a device, the user's settings laid over the calibrated ones; `precision` is Lite0's alone.

        Raises FileNotFoundError when Lite0's package or the heads are not installed.
        """
        if not heads.is_file():
            raise FileNotFoundError(
                f"backbone pocket: no heads at {heads}; run: divrl-train pocket heads --output {heads.parent}"
            )
        module = CorrespondenceHeads()
        module.load_state_dict({name: value.float() for name, value in load_file(heads).items()})
        settings = CALIBRATED if config is None else merge_settings(CALIBRATED, config)
        network = Lite0Backbone.load(device=device, precision=precision).network
        return cls(network, module.eval().requires_grad_(False).to(device), settings)

    @classmethod
    def without_weights(cls, config: BackboneConfig) -> PocketBackbone:
        """The same networks untrained, for plans."""
        network = fold_batch_norms(EfficientNetLite(LITE0).eval())
        return cls(network, CorrespondenceHeads(), merge_settings(CALIBRATED, config))

    @property
    def module(self) -> nn.Module:
        """All weights, for those who move them between devices."""
        return nn.ModuleList([self._network, self._heads])

    def with_settings(self, settings: BackboneSettings) -> PocketBackbone:
        """The same networks under other settings."""
        return PocketBackbone(self._network, self._heads, settings)

    @torch.no_grad()
    def extract(self, images: Tensor) -> FeatureBatch:
        """Features of pictures (B, 3, H, W) in [0, 1] on a grid of an eighth of `image_size_px`, in float32.

        s16, half as fine, is repeated: nSSM, which pools 2 x 2 cells again, reads it as it is.
        """
        inputs = head_inputs(self._network, images, self.settings.image_size_px)
        semantic, visual = self._heads(inputs)
        structure = inputs[:, :S16_CHANNELS].repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        return FeatureBatch(
            semantic=semantic, structure=structure, visual=(VisualFeature(name="head", values=visual),)
        )
