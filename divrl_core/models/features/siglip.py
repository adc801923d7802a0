"""Reward backbone siglip: SigLIP's and SigLIP 2's picture side at a fixed size, and NearID's weights of the same kind.

The files are those of a SiglipVisionModel, of a whole SiglipModel, or of NearID (arXiv:2604.01973), which keeps a
SiglipVisionModel under `backbone.`; NearID's own code is not run, nor needed. The whole picture is the output of the
attention pooling head, whose cosine NearID is trained for.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .vision_files import Normalisation, VisionFiles
from .vision_transformer import VisionTransformerBackbone, read_configuration

NEARID_NAMES = {r"^backbone\.(vision_model\.)?": ""}


def _published(width: int, inner: int, layers: int, heads: int, patch: int, size_px: int) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size_px,
        "patch_size": patch,
    }


PUBLISHED = {
    "google/siglip2-base-patch16-224": _published(768, 3072, 12, 12, 16, 224),
    "google/siglip2-base-patch16-384": _published(768, 3072, 12, 12, 16, 384),
    "google/siglip2-so400m-patch14-384": _published(1152, 4304, 27, 16, 14, 384),
    "Aleksandar/nearid-siglip2": _published(1152, 4304, 27, 16, 14, 384),
}


class SiglipBackbone(VisionTransformerBackbone):
    """SigLIP; a model without its pooling head gives the mean of its patches as the whole picture."""

    name = "siglip"
    default_path = "google/siglip2-base-patch16-384"
    standard = Normalisation(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    published = PUBLISHED
    renamed = NEARID_NAMES

    @classmethod
    def _kind(cls, files: VisionFiles) -> tuple[type[nn.Module], Any]:
        import transformers as of

        return of.SiglipVisionModel, read_configuration(cls.name, of.SiglipVisionConfig, files)

    def _look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self._model(pixel_values=pixels, **self._options)
        tokens: Tensor = output.last_hidden_state
        return tokens, tokens.mean(dim=1) if output.pooler_output is None else output.pooler_output
