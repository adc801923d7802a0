"""Numbers of a LoRA's parameters, one by one, from the shapes of the layers it sits on."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn

from .lora import target_modules
from .traced_model import transformer_on_meta


@lru_cache(maxsize=32)
def lora_numbers(config: str, targets: str, rank: int) -> tuple[int, ...]:
    """Numbers of lora_A and lora_B of each layer in turn, for a transformer's configuration (`config_key`).

    Raises ValueError when `targets` match no layer.
    """
    model = transformer_on_meta(config, torch.float32)
    layers = [model.get_submodule(name) for name in target_modules(model, targets)]
    sides = [(layer.in_features, layer.out_features) for layer in layers if isinstance(layer, nn.Linear)]
    if not sides:
        raise ValueError(f"lora.targets={targets!r} matches no linear layer of this transformer")
    return tuple(rank * side for both in sides for side in both)
