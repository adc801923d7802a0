"""Reward backbone lite2: EfficientNet-Lite2, wider and deeper than lite0, 1.6 times its work; an extra."""

from __future__ import annotations

from ...rewards.score import ScoreSettings
from .base import BackboneSettings
from .efficientnet_lite import LITE2
from .lite import LiteBackbone

CALIBRATED = BackboneSettings(
    image_size_px=192,
    score=ScoreSettings(tau_s=0.55, tau_v=0.55, nssm_pool=1, agreement="match", one_to_one=True),
    gate=0.59,
    consistency_cutoff=0.59,
    colour_scale=0.08,
    weight_s8=0.0,
)
"""Chosen on true renders of the pocket world: docs/calibration.md."""


class Lite2Backbone(LiteBackbone):
    """The family's third network, under the settings calibrated for it."""

    name = "lite2"
    variant = LITE2
    calibrated = CALIBRATED
