"""A small model of the real thing for traces: the transformer of a configuration with its LoRA, without memory.

Blocks of a kind are alike but for the first, whose inputs need no gradient, and the last single one, which answers for
the target alone; so two double and three single ones stand for all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F

from .fake_modules import as_fake, fake_tensors, on_meta
from .last_block import answer_for, prepare_last_block
from .lora import POLICY, inject_adapter, target_modules
from .planned_kernels import DeviceKind

TRACED_BLOCKS = 2, 3
Depth = tuple[int, int]
"""Numbers of double and single blocks."""


@dataclass(frozen=True, kw_only=True)
class TraceRequest:
    """A transformer, its LoRA, and the batch it is given."""

    config: str
    """The transformer's configuration, JSON with sorted keys (`config_key`)."""
    dtype: torch.dtype
    lora_rank: int
    lora_targets: str
    batch: int
    image_tokens: int
    """Target and reference together."""
    text_tokens: int
    autocast: bool = False
    """bfloat16 autocast."""
    device: DeviceKind = "cuda"
    attention: str = "auto"
    target_tokens: int | None = None
    """Of the image tokens, those that an answer is wanted for; None: all (last_block.py)."""
    keeps_inputs: bool = False
    """bitsandbytes' 8-bit layers keep their input until the backward pass."""


def config_key(config: Mapping[str, Any]) -> str:
    """A transformer's configuration as `TraceRequest` takes it."""
    return json.dumps(
        {key: value for key, value in config.items() if not key.startswith("_")}, sort_keys=True
    )


def transformer_on_meta(
    config: Mapping[str, Any] | str, dtype: torch.dtype, *, depth: tuple[int, int] | None = None
) -> nn.Module:
    """The transformer of a configuration, without weights; `depth`: other numbers of double and single blocks.

    Raises ValueError when the configuration is none of a FLUX transformer.
    """
    settings = dict(json.loads(config) if isinstance(config, str) else config)
    if depth is not None:
        settings |= {"num_layers": depth[0], "num_single_layers": depth[1]}
    try:
        return on_meta(lambda: FluxTransformer2DModel.from_config(settings), dtype)
    except (TypeError, ValueError) as error:
        raise ValueError(f"transformer/config.json: no FLUX transformer: {error}") from error


def depth_of(config: str) -> Depth:
    """The configuration's own depth."""
    settings = json.loads(config)
    return int(settings.get("num_layers", 19)), int(settings.get("num_single_layers", 38))


def traced_depth(config: str) -> Depth:
    """The depth that is run: the model's own where it is not deeper."""
    double, single = depth_of(config)
    return min(TRACED_BLOCKS[0], double), min(TRACED_BLOCKS[1], single)


def with_lora(request: TraceRequest, depth: Depth) -> nn.Module:
    """The model at that depth with its LoRA, on the meta device."""
    model = transformer_on_meta(request.config, request.dtype, depth=depth)
    prepare_last_block(model)
    answer_for(model, request.target_tokens)
    names = "|".join(map(re.escape, target_modules(model, request.lora_targets)))
    with torch.device("meta"):
        inject_adapter(model, POLICY, rank=request.lora_rank, alpha=1.0, pattern=names)
    return model


@contextmanager
def fake_model(request: TraceRequest, depth: Depth) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
    """The model at that depth, gradients in place, and a batch for it; all without memory.

    On the meta device, which is faster; under autocast, which does not know that device, of fake tensors.
    """
    model = with_lora(request, depth)
    if request.keeps_inputs:
        _keep_inputs(model)
    with fake_tensors() if request.autocast else torch.device("meta"):
        if request.autocast:
            as_fake(model)
        for parameter in model.parameters():
            if parameter.requires_grad:  # counted apart, so they are there before
                parameter.grad = torch.empty_like(parameter)
        yield model, batch_inputs(model, request)


def batch_inputs(model: nn.Module, request: TraceRequest) -> dict[str, Any]:
    """A batch for the model's `forward`, on the device of the moment (`torch.device`, fake tensors)."""
    config: Any = model.config
    batch, tokens, text, dtype = request.batch, request.image_tokens, request.text_tokens, request.dtype
    return {
        "hidden_states": torch.empty(batch, tokens, config.in_channels, dtype=dtype),
        "timestep": torch.empty(batch),
        "guidance": torch.empty(batch) if config.guidance_embeds else None,
        "pooled_projections": torch.empty(batch, config.pooled_projection_dim, dtype=dtype),
        "encoder_hidden_states": torch.empty(batch, text, config.joint_attention_dim, dtype=dtype),
        "txt_ids": torch.empty(text, 3),
        "img_ids": torch.empty(tokens, 3),
        "return_dict": False,
    }


class _KeepsInput(torch.autograd.Function):
    """A frozen linear layer that keeps its input, as bitsandbytes' 8-bit product does without need."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        _, weight = ctx.saved_tensors
        return gradients[0] @ weight, None, None


def _keep_inputs(model: nn.Module) -> None:
    for name, layer in model.named_modules():
        # The frozen linear layers of the blocks are packed, a LoRA's own are not.
        if isinstance(layer, nn.Linear) and "blocks." in name and ".lora_" not in name:
            layer.forward = lambda x, layer=layer: _KeepsInput.apply(x, layer.weight, layer.bias)  # type: ignore[method-assign,misc]
