"""Reward backbone clip: CLIP's picture side, from its own files or from a whole CLIPModel's.

Patches come from the last layer but one: the last serves the pooled output alone. The whole picture is the projected
embedding, whose cosine is CLIP-I, where the file holds the projection, else the pooled class token.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .vision_files import Normalisation, VisionFiles
from .vision_transformer import VisionTransformerBackbone, read_configuration

PROJECTION = "visual_projection.weight"


def _published(
    width: int, layers: int, heads: int, patch: int, size_px: int, projection: int
) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": size_px,
        "patch_size": patch,
        "projection_dim": projection,
    }


PUBLISHED = {
    "openai/clip-vit-base-patch32": _published(768, 12, 12, 32, 224, 512),
    "openai/clip-vit-base-patch16": _published(768, 12, 12, 16, 224, 512),
    "openai/clip-vit-large-patch14": _published(1024, 24, 16, 14, 224, 768),
    "openai/clip-vit-large-patch14-336": _published(1024, 24, 16, 14, 336, 768),
}


class ClipBackbone(VisionTransformerBackbone):
    """CLIP; a plan takes the projection to be there."""

    name = "clip"
    default_path = "openai/clip-vit-large-patch14"
    standard = Normalisation(
        mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    published = PUBLISHED

    @classmethod
    def _kind(cls, files: VisionFiles) -> tuple[type[nn.Module], Any]:
        import transformers as of

        is_projected = files.folder is None or PROJECTION in files.tensors
        kind = of.CLIPVisionModelWithProjection if is_projected else of.CLIPVisionModel
        return kind, read_configuration(cls.name, of.CLIPVisionConfig, files)

    def _look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self._model(pixel_values=pixels, output_hidden_states=True, **self._options)
        pooled = getattr(output, "image_embeds", None)
        return output.hidden_states[-2], output.pooler_output if pooled is None else pooled
