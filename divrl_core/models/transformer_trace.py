"""What a FLUX transformer with its LoRA keeps and needs in training and sampling: the real model, run without memory.

Blocks of a kind are alike but for the first and the last (traced_model.py): a model of at most two double and three
single blocks is run, and the others are added as copies of the second. What is counted is told in `TransformerTrace`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .live_tensors import LiveTensors
from .lora import target_modules
from .planned_kernels import PlannedKernels
from .saved_tensors import SavedTensors, saved_tensors
from .traced_model import Depth, TraceRequest, depth_of, fake_model, traced_depth, transformer_on_meta

KINDS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}


@dataclass(frozen=True, kw_only=True)
class TransformerTrace:
    """Bytes of one forward pass of the whole model, and what the passes need beside.

    saved: what autograd keeps without checkpointing. between: with it, the inputs of all blocks and what is kept
    outside of them. largest_block: what one block keeps while it is recomputed. working: the most that lives beside
    these in forward and backward pass; working_checkpointed: beside `between` and `largest_block`. sampling: the most
    that lives in a forward pass without gradients.
    """

    saved: int
    between: int
    largest_block: int
    working: int
    working_checkpointed: int
    sampling: int

    @property
    def checkpointed(self) -> int:
        """What autograd keeps under gradient checkpointing, at most."""
        return self.between + self.largest_block


@lru_cache(maxsize=64)
def trace_transformer(request: TraceRequest) -> TransformerTrace:
    """Run the model three times without memory: sampling, training, training with checkpointing."""
    counts, depth = depth_of(request.config), traced_depth(request.config)
    with fake_model(request, depth) as (model, inputs):
        sampling = _sampling_peak(model, inputs, request)
        saved, peak = _training(model, inputs, request, is_checkpointed=False)
        between, checkpointed_peak = _training(model, inputs, request, is_checkpointed=True)
        casts = _cast_copies(request, counts) - _cast_copies(request, depth)
    largest = max((saved.by_part.get(name, 0) for name in _blocks(model)), default=0)
    whole_saved = saved.total + _copies(saved, counts, depth)
    whole_between = between.total + _copies(between, counts, depth)
    recomputing = checkpointed_peak - between.total - largest
    return TransformerTrace(
        saved=whole_saved,
        between=whole_between,
        largest_block=largest,
        working=max(0, peak - saved.total),
        working_checkpointed=max(0, recomputing, sampling + casts - largest),
        sampling=sampling + casts,
    )


def _sampling_peak(model: nn.Module, inputs: dict[str, Any], request: TraceRequest) -> int:
    kernels = PlannedKernels(request.device, request.attention)
    with torch.no_grad(), kernels, LiveTensors(_own(model, inputs)) as live, _autocast(request):
        model(**inputs)
    return live.peak


def _training(
    model: nn.Module, inputs: dict[str, Any], request: TraceRequest, *, is_checkpointed: bool
) -> tuple[SavedTensors, int]:
    """What a forward pass keeps, and the most that lives until the backward pass is done."""
    kernels = PlannedKernels(request.device, request.attention)

    def recompute(block: nn.Module, *given: Any) -> Any:
        # as attention.checkpoint_blocks does; torch's own backward leaves function modes, so this one enters again
        again = PlannedKernels(request.device, request.attention)
        return checkpoint(
            block,
            *given,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), again),
        )

    model.enable_gradient_checkpointing(recompute)  # type: ignore[operator]
    if not is_checkpointed:
        model.disable_gradient_checkpointing()  # type: ignore[operator]
    with kernels, LiveTensors(_own(model, inputs)) as live:
        with saved_tensors(model, _blocks(model)) as saved, _autocast(request):
            output = model(**inputs)[0]
        saved.release()
        output.float().sum().backward()
        del output
    return saved, live.peak


def _own(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    given = [value for value in inputs.values() if isinstance(value, Tensor)]
    return [*model.parameters(), *model.buffers(), *gradients, *given]


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    return {
        f"{kind}.{place}": block
        for kind, name in KINDS.items()
        for place, block in enumerate(getattr(model, name))
    }


def _copies(saved: SavedTensors, counts: Depth, depth: Depth) -> int:
    """What the blocks keep that were not run: each as much as the second of its kind, and what lies before it."""
    extra = 0
    for kind, count, run in zip(KINDS, counts, depth, strict=True):
        second = saved.by_part.get(f"{kind}.1", 0) + saved.by_part.get(f"after {kind}.0", 0)
        extra += (count - run) * second
    return extra


def _cast_copies(request: TraceRequest, depth: Depth) -> int:
    """Bytes of the LoRA's weights in bfloat16, which autocast makes once and holds until it ends."""
    if not request.autocast:
        return 0
    model = transformer_on_meta(request.config, request.dtype, depth=depth)
    layers = [model.get_submodule(name) for name in target_modules(model, request.lora_targets)]
    numbers = sum(layer.in_features + layer.out_features for layer in layers if isinstance(layer, nn.Linear))
    return request.lora_rank * numbers * torch.bfloat16.itemsize


def _autocast(request: TraceRequest) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=request.autocast)
