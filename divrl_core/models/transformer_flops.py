"""Floating-point operations of a FLUX transformer with its LoRA, counted while it runs without memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from .live_tensors import LiveTensors
from .planned_kernels import PlannedKernels
from .traced_model import Depth, TraceRequest, batch_inputs, depth_of, traced_depth, with_lora


@dataclass(frozen=True, kw_only=True)
class TransformerFlops:
    """Operations for one sample, by the dtype of the product: the forward pass, and forward and backward together."""

    forward: Mapping[torch.dtype, float]
    training: Mapping[torch.dtype, float]


def transformer_flops(request: TraceRequest) -> TransformerFlops:
    """Operations of the whole model for one sample; `request.batch` says nothing here."""
    plain = _whole_flops(replace(request, batch=1, autocast=False, keeps_inputs=False))
    if not request.autocast:
        return plain
    forward, training = sum(plain.forward.values()), sum(plain.training.values())
    return TransformerFlops(forward={torch.bfloat16: forward}, training={torch.bfloat16: training})


@lru_cache(maxsize=32)
def _whole_flops(request: TraceRequest) -> TransformerFlops:
    counts, depth = depth_of(request.config), traced_depth(request.config)
    here = _flops(request, depth)
    forward, training = dict(here.forward), dict(here.training)
    for kind in range(2):
        extra = counts[kind] - depth[kind]
        if not extra:
            continue
        deeper = _flops(request, (depth[0] + (kind == 0), depth[1] + (kind == 1)))
        for mine, less, more in (
            (forward, here.forward, deeper.forward),
            (training, here.training, deeper.training),
        ):
            for dtype, count in more.items():
                mine[dtype] = mine.get(dtype, 0) + extra * (count - less.get(dtype, 0))
    return TransformerFlops(forward=forward, training=training)


def _flops(request: TraceRequest, depth: Depth) -> TransformerFlops:
    """On the meta device, faster than fake tensors: nothing is asked here that it does not know."""
    model = with_lora(request, depth)
    with torch.device("meta"):
        inputs = batch_inputs(model, request)
    with PlannedKernels(request.device, request.attention):
        with torch.no_grad(), LiveTensors() as forward:
            model(**inputs)
        with LiveTensors() as training:
            model(**inputs)[0].float().sum().backward()
    return TransformerFlops(forward=forward.flops, training=training.flops)
