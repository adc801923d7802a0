"""How large a LoRA is on a given transformer, counted on the meta device: no weight is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from .lora import target_modules

# Bytes of a trained parameter in float32: weight, gradient, running average, and what the optimizer holds of it.
WEIGHT, GRADIENT, AVERAGE = 4, 4, 4
MOMENTS = {"adamw": 8, "adamw8bit": 2, "prodigy": 16}


@dataclass(frozen=True)
class LoraSize:
    """A LoRA's linear layers and parameters, and the bytes that training it holds."""

    linears: int
    parameters: int

    def file_bytes(self, bytes_each: int = 4) -> int:
        """Bytes of the exported file (float32 unless told otherwise), but for its header."""
        return self.parameters * bytes_each

    def training_bytes(self, optimizer: str = "adamw") -> int:
        """Bytes on the training device: weights, gradients and the optimizer's moments."""
        return self.parameters * (WEIGHT + GRADIENT + MOMENTS[optimizer])

    def average_bytes(self) -> int:
        """Bytes of the running average, on the training device too."""
        return self.parameters * AVERAGE

    def checkpoint_bytes(self, optimizer: str = "adamw") -> int:
        """Bytes of a checkpoint: weights, average and moments; as much on the CPU while it is written."""
        return self.parameters * (WEIGHT + AVERAGE + MOMENTS[optimizer])


def lora_size(transformer: nn.Module, targets: str, rank: int) -> LoraSize:
    """Size of a LoRA: rank x (inputs + outputs) parameters for each layer that `targets` names.

    FLUX.1 with attention+ffn at rank 512: 418 layers, 2.09 billion parameters.
    """
    linears = [transformer.get_submodule(name) for name in target_modules(transformer, targets)]
    shapes = [(layer.in_features, layer.out_features) for layer in linears if isinstance(layer, nn.Linear)]
    return LoraSize(
        linears=len(shapes), parameters=rank * sum(inputs + outputs for inputs, outputs in shapes)
    )


def transformer_on_meta(folder: Path) -> nn.Module:
    """The transformer that a folder's config.json describes, without weights. Raises ValueError when unreadable."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        with torch.device("meta"):
            transformer: nn.Module = FluxTransformer2DModel.from_config(config)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'}: could not be read: {error}") from error
    return transformer
