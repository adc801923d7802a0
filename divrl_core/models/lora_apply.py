"""From a LoRA file into a transformer, to train on or to make pictures with, once it is known to belong."""

from __future__ import annotations

import logging
import math
import re

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from .lora import (
    POLICY,
    adapter_names,
    adapter_shape,
    inject_adapter,
    load_lora_state,
    lora_layers,
    lora_parameters,
    lora_state,
)
from .lora_file import LoraFile, LoraState

logger = logging.getLogger("divrl")

INFERENCE = "inference"


def check_architecture(transformer: nn.Module, lora: LoraFile) -> None:
    """Raise ValueError naming the first layer of the file that `transformer` does not have in that size."""
    for module in lora.modules:
        layer = _linear(transformer, module)
        if layer is None:
            raise ValueError(
                f"{lora.path}: belongs to another architecture: "
                f"{module} is not a linear layer of this transformer"
            )
        inputs = lora.tensors[f"{module}.lora_A.weight"].shape[1]
        outputs = lora.tensors[f"{module}.lora_B.weight"].shape[0]
        if (layer.in_features, layer.out_features) != (inputs, outputs):
            raise ValueError(
                f"{lora.path}: belongs to another architecture: {module} has {inputs} inputs and {outputs} "
                f"outputs in the file, {layer.in_features} and {layer.out_features} in this transformer"
            )


def _linear(transformer: nn.Module, module: str) -> nn.Linear | None:
    try:
        layer = transformer.get_submodule(module)
    except AttributeError:
        return None
    if isinstance(layer, BaseTunerLayer):
        layer = layer.get_base_layer()
    return layer if isinstance(layer, nn.Linear) else None


def unfold(lora: LoraFile, scale: float) -> LoraState:
    """The file's weights for an adapter that multiplies by `scale`: lora_B / scale in float32, A as it is.

    Undoes the export exactly where the scale is a power of two and the file is float32; else to one rounding.
    """
    unfolded: dict[str, Tensor] = {}
    for name, weight in lora.tensors.items():
        is_b = name.endswith(".lora_B.weight")
        unfolded[name] = (weight.double() / scale).float() if is_b else weight.float()
    return unfolded


def continue_from(transformer: nn.Module, lora: LoraFile, *, adapter: str = POLICY) -> tuple[str, ...]:
    """Start the adapter from a file: training then goes on as it would have from the run itself.

    The adapter must have been added (`add_lora`) with the file's rank; its own alpha / rank is taken out of
    lora_B again. Returns the adapter's modules that the file says nothing of; these keep their fresh start
    (no effect yet). Raises ValueError when the file does not belong to this transformer or adapter.
    """
    check_architecture(transformer, lora)
    rank, alpha = adapter_shape(transformer, adapter)
    if rank != lora.rank:
        raise ValueError(
            f"{lora.path}: has rank {lora.rank}, the settings say {rank}: set lora.rank={lora.rank}"
        )
    if alpha != lora.alpha:
        logger.warning(
            "%s was trained with alpha %g, this run uses %g: same pictures at the start, other step sizes",
            lora.path, lora.alpha, alpha,
        )  # fmt: skip
    names = lora_parameters(transformer, adapter=adapter)
    stranger = next((name for name in lora.tensors if name not in names), None)
    if stranger is not None:
        module = stranger.rsplit(".lora_", 1)[0]
        raise ValueError(
            f"{lora.path}: changes {module}, which the settings do not train; choose wider lora.targets"
        )
    start = lora_state(transformer, adapter=adapter) | unfold(lora, alpha / rank)
    load_lora_state(transformer, start, adapter=adapter)
    in_file = set(lora.modules)
    fresh = tuple(name for name, _ in lora_layers(transformer, adapter) if name not in in_file)
    if fresh:
        logger.info("%s leaves out %d modules, which start fresh: %s, ...", lora.path, len(fresh), fresh[0])
    return fresh


def load_for_inference(transformer: nn.Module, lora: LoraFile, strength: float = 1.0) -> None:
    """Let the transformer answer with `strength` times the file's effect; a second call replaces the first.

    The weights stay beside the base, in float32 and frozen, instead of being added into it: exact on a
    bfloat16 base, and `disabled_lora` gives the base model back. Strength 0 is the base, 1 the file as
    trained; values beyond and below are allowed. Adapters added before stay, but no longer answer. Raises
    ValueError when the file belongs to another architecture.
    """
    if not math.isfinite(strength):
        raise ValueError(f"strength must be a finite number, got {strength}")
    check_architecture(transformer, lora)
    if INFERENCE in adapter_names(transformer):
        transformer.delete_adapters(INFERENCE)  # type: ignore[operator]
    pattern = "|".join(re.escape(module) for module in lora.modules)
    inject_adapter(transformer, INFERENCE, rank=lora.rank, alpha=lora.rank, pattern=pattern)
    load_lora_state(transformer, _strengthened(lora, strength), adapter=INFERENCE)
    for parameter in lora_parameters(transformer, adapter=INFERENCE).values():
        parameter.requires_grad_(False)


def _strengthened(lora: LoraFile, strength: float) -> LoraState:
    state: LoraState = {}
    for name, weight in lora.tensors.items():
        state[name] = weight.to(torch.float32) * (strength if name.endswith(".lora_B.weight") else 1.0)
    return state
