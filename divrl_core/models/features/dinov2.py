"""Reward backbone dinov2: patch features for structure and matches, the class token for the whole picture.

Of arXiv:2606.23950, Appendix C, which runs both stages on DINOv2 with the settings of MTG (tau_s .7, tau_v .7, s .5,
cut-off .6): nSSM reads the patches, and a cosine is the gate. The paper's other figure for DINO, .75, is a cut-off of
sDINO (eq. 10), another measure. VSM of these patches is not the paper's, and its thresholds here are not calibrated.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .vision_files import IMAGENET, VisionFiles
from .vision_transformer import VisionTransformerBackbone, read_configuration


def _published(width: int, layers: int, heads: int, *, is_swiglu: bool = False) -> dict[str, Any]:
    return {
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": 518,
        "patch_size": 14,
        "use_swiglu_ffn": is_swiglu,
    }


PUBLISHED = {
    "facebook/dinov2-small": _published(384, 12, 6),
    "facebook/dinov2-base": _published(768, 12, 12),
    "facebook/dinov2-large": _published(1024, 24, 16),
    "facebook/dinov2-giant": _published(1536, 40, 24, is_swiglu=True),
}


class Dinov2Backbone(VisionTransformerBackbone):
    """DINOv2 with or without registers; the whole picture is the class token after the last norm."""

    name = "dinov2"
    default_path = "facebook/dinov2-base"
    standard = IMAGENET
    published = PUBLISHED

    @classmethod
    def _kind(cls, files: VisionFiles) -> tuple[type[nn.Module], Any]:
        import transformers as of

        kind, configuration = (
            (of.Dinov2WithRegistersModel, of.Dinov2WithRegistersConfig)
            if files.config["model_type"] == "dinov2_with_registers"
            else (of.Dinov2Model, of.Dinov2Config)
        )
        return kind, read_configuration(cls.name, configuration, files)
