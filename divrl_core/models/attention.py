"""One attention kernel for a model, wherever its blocks run: rollout, training, and recomputation.

Kernels differ in the last bits, so a policy ratio of exactly 1 needs the same one everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

# "auto" is the first of flash, efficient and math that takes the tensors. cuDNN's, which torch prefers on Hopper, is
# not among them: its backward pass failed on FLUX's shapes (H200, torch 2.11, bfloat16).
KERNELS: dict[str, tuple[SDPBackend, ...]] = {
    "auto": (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
    "math": (SDPBackend.MATH,),
    "flash": (SDPBackend.FLASH_ATTENTION,),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION,),
    "cudnn": (SDPBackend.CUDNN_ATTENTION,),
}


def kernel_name(asked: str | None, device_type: str, dtype: torch.dtype) -> str:
    """The kernel to use: the one asked for, else auto; math for bfloat16 on a CPU, where flash trains a third slower.

    Raises ValueError when the name is unknown.
    """
    name = asked or ("math" if device_type == "cpu" and dtype == torch.bfloat16 else "auto")
    if name not in KERNELS:
        raise ValueError(f"attention must be one of {', '.join(KERNELS)}, got {asked!r}")
    return name


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Inside this block torch's scaled-dot-product attention uses that kernel."""
    with sdpa_kernel(list(KERNELS[name])):
        yield


def checkpoint_blocks(transformer: nn.Module, kernel: str) -> None:
    """Let a diffusers model recompute each block in the backward pass, with that kernel.

    The backward pass runs outside the block in which the forward pass chose its kernel, and another kernel
    keeps other tensors, which torch refuses.
    """

    def recompute(block: nn.Module, *inputs: Any) -> Any:
        return checkpoint(
            block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), attention_kernel(kernel))
        )

    transformer.enable_gradient_checkpointing(recompute)  # type: ignore[operator]
