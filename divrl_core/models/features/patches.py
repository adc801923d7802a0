"""Patch tokens of any vision transformer as features: one grid of cells for matching, structure and looks.

With DINOv2 patch features serve nSSM (arXiv:2606.23950, Appendix C). For VSM the same tokens find matches; what is
compared at a match is their cosine and, in equal parts, the cell's colour, to which such features are half blind. The
thresholds are not calibrated: no such weights can be had where this was written.
"""

from __future__ import annotations

import math

from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ...rewards.features import FeatureBatch, VisualFeature
from ...rewards.score import ScoreSettings
from .base import BackboneSettings, resize_to_square
from .colour import weighted_oklab

MOST_PREFIX_TOKENS = 8  # class and register tokens before the patches
LEAST_SIDE = 4

UNCALIBRATED = BackboneSettings(
    image_size_px=224,
    score=ScoreSettings(tau_s=0.5, tau_v=0.6, nssm_pool=1, agreement="match", one_to_one=True),
    gate=0.5,
    consistency_cutoff=0.6,
    colour_scale=0.08,
)
"""Chosen by judgement alone; `image_size_px` is replaced by the model's own."""


def patch_grid(tokens: int, name: str) -> tuple[int, int]:
    """(side of the square grid, tokens before it) in a sequence of so many tokens.

    Raises ValueError when the sequence is no such grid: the backbone has no dense features.
    """
    side = math.isqrt(tokens)
    prefix = tokens - side * side
    if side < LEAST_SIDE or prefix > MOST_PREFIX_TOKENS:
        raise ValueError(
            f"{name} has no dense features: expected a square grid of patch tokens after at most {MOST_PREFIX_TOKENS} "
            f"others, got {tokens} tokens; use a vision transformer (DINOv2, SigLIP, CLIP), or the packaged lite0"
        )
    return side, prefix


def patch_features(
    tokens: Tensor, images: Tensor, *, colour_scale: float, name: str, image: Tensor | None = None
) -> FeatureBatch:
    """Features on the grid of patches.

    Args:
        tokens: (B, T, C), the last ones a square grid row by row; class and register tokens come first.
        images: the pictures (B, 3, H, W) in [0, 1] that the tokens are of.
        colour_scale: distance of colours at which their similarity is 1/e.
        name: the model's, for errors.
        image: (B, C), the whole pictures in one vector each, where the model has one.

    Raises ValueError when the tokens are no grid, or not of these pictures.
    """
    if tokens.ndim != 3 or len(tokens) != len(images):
        raise ValueError(f"{name}: expected tokens ({len(images)}, T, C), got {tuple(tokens.shape)}")
    side, prefix = patch_grid(tokens.shape[1], name)
    patches = rearrange(tokens[:, prefix:].float(), "b (h w) c -> b c h w", h=side)
    colour = F.adaptive_avg_pool2d(
        weighted_oklab(resize_to_square(images.to(patches.device), side * 8).clamp(0, 1)), side
    )
    return FeatureBatch(
        semantic=patches,
        structure=patches,
        visual=(
            VisualFeature(name="patches", values=patches),
            VisualFeature(name="colour", values=colour, kernel="exponential", scale=colour_scale),
        ),
        image=None if image is None else image.to(patches),
    )


def patch_settings(image_size_px: int) -> BackboneSettings:
    """The uncalibrated settings for a model that sees squares of this size."""
    return BackboneSettings(
        image_size_px=image_size_px,
        score=UNCALIBRATED.score,
        gate=UNCALIBRATED.gate,
        consistency_cutoff=UNCALIBRATED.consistency_cutoff,
        colour_scale=UNCALIBRATED.colour_scale,
    )
