"""Reward backbone transformers: any vision model that transformers knows and that puts out patch tokens.

DINOv3, ViT and others: `last_hidden_state` must end in a square grid of patches after at most 8 other tokens. The whole
picture is `pooler_output`, or the mean of the patches where the model has none or its file lacks the pooler's weights.
Of a model of pictures and texts the picture side is taken. Code that lies beside a model is never run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...rewards.features import FeatureBatch
from .base import BackboneSettings
from .patches import patch_grid
from .vision_files import Normalisation, VisionFiles
from .vision_transformer import NEEDED, VisionTransformerBackbone, read_configuration

POOLER = "pooler."
PUBLISHED: dict[str, dict[str, Any]] = {}  # a plan needs the config.json


class AnyVisionBackbone(VisionTransformerBackbone):
    """A model by its model_type; asked once, when it is made, whether it has what is needed."""

    name = "transformers"
    default_path = None
    standard = None  # each has its own: its preprocessor_config.json must be there
    published = PUBLISHED

    def __init__(
        self, model: nn.Module, settings: BackboneSettings, normalisation: Normalisation, *, origin: str
    ) -> None:
        super().__init__(model, settings, normalisation, origin=origin)
        if next(model.parameters()).device.type != "meta":
            self._try(origin)

    @classmethod
    def _kind(cls, files: VisionFiles) -> tuple[type[nn.Module], Any]:
        import transformers as of

        kind = files.vision.get("model_type")
        if kind not in of.CONFIG_MAPPING:
            raise ValueError(
                f"backbone {cls.name}: {files.origin}: transformers {of.__version__} knows no model_type {kind!r}, and "
                f"code that comes with a model is not run; {NEEDED}"
            )
        config = read_configuration(cls.name, of.CONFIG_MAPPING[kind], files)
        if type(config) not in of.MODEL_MAPPING:
            raise ValueError(f"backbone {cls.name}: {files.origin}: {kind} is no model by itself; {NEEDED}")
        return of.MODEL_MAPPING[type(config)], config

    @classmethod
    def _without_what_may_lack(cls, model: nn.Module, missing: list[str]) -> list[str]:
        needed = [name for name in missing if not name.startswith(POOLER)]
        if len(needed) < len(missing):
            setattr(model, POOLER.rstrip("."), None)
        return needed

    def _look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        output = self._model(pixel_values=pixels, **self._options)
        tokens: Tensor = output.last_hidden_state
        if tokens.ndim != 3:
            raise ValueError(f"its output is {tuple(tokens.shape)}, not (B, tokens, C)")
        pooled = getattr(output, "pooler_output", None)
        if pooled is None or pooled.ndim != 2:
            _, prefix = patch_grid(tokens.shape[1], self.source)
            pooled = tokens[:, prefix:].mean(dim=1)
        return tokens, pooled

    def _try(self, origin: str) -> FeatureBatch:
        """Features of one grey picture. Raises ValueError, in one line, when the model does not do as is needed."""
        side = self.settings.image_size_px
        try:
            return self.extract(torch.full((1, 3, side, side), 0.5))
        except (ValueError, TypeError, AttributeError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(
                f"backbone {self.name}: {origin} cannot serve as {type(self._model).__name__} at {side} px: "
                f"{first_line}; {NEEDED}"
            ) from error
