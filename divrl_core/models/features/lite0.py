"""Reward backbone lite0: EfficientNet-Lite0, 13 MB; the default."""

from __future__ import annotations

from ...rewards.score import ScoreSettings
from .base import BackboneSettings
from .efficientnet_lite import LITE0
from .lite import LiteBackbone

CALIBRATED = BackboneSettings(
    image_size_px=192,
    score=ScoreSettings(tau_s=0.45, tau_v=0.5, nssm_pool=1, agreement="match", one_to_one=True),
    gate=0.55,
    consistency_cutoff=0.6,
    colour_scale=0.08,
    weight_s8=0.0,
)
"""Chosen on true renders of the pocket world: docs/calibration.md."""


class Lite0Backbone(LiteBackbone):
    """The family's smallest network, under the settings calibrated for it."""

    name = "lite0"
    variant = LITE0
    calibrated = CALIBRATED
