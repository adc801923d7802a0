"""Blocks whose frozen weights live in host memory and visit the device while they are used.

Each call of such a block runs it on copies of its weights by `torch.func.functional_call`: in the rollout (no gradient)
a copy dies when the block is done; in training under gradient checkpointing the forward pass drops it likewise, and the
recomputation in the backward pass makes one again, which autograd frees with the block's graph. So the device holds one
visiting block at a time. A LoRA's weights stay on the device. The copies come from pinned memory on CUDA, in the order
of the stream: the copying is not hidden behind the computing.

diffusers' own group offloading does not serve here (read in diffusers 0.42, not run on CUDA): it moves a whole group by
replacing `parameter.data`, the LoRA's with the base's. Between uses the trained weights then lie on the host and their
gradients and the optimizer's moments on the device; with a stream, the host copies it took when it was switched on come
back and undo the optimizer's steps. Its hooks also let go of a module's weights after `forward` only, and autograd,
which saved views of them, keeps them on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

_DEVICE = "_divrl_visited_device"


def blocks_in_order(transformer: nn.Module) -> list[nn.Module]:
    """The transformer's repeated blocks in the order of use: double blocks, then single blocks."""
    return [
        block
        for name in ("transformer_blocks", "single_transformer_blocks")
        for block in getattr(transformer, name, ())
    ]


def offload_blocks(transformer: nn.Module, count: int, device: torch.device) -> nn.Module:
    """Move a transformer from the host to `device`, all but the weights of its last `count` blocks.

    Call it before a LoRA is added; `add_lora` then puts the adapters on `device` (`visited_device`).

    Raises ValueError when there are fewer blocks.
    """
    blocks = blocks_in_order(transformer)
    if count > len(blocks):
        raise ValueError(
            f"model.offload_blocks={count}: this transformer has {len(blocks)} blocks; set it to at most {len(blocks)}"
        )
    at_home = {id(part) for block in blocks[len(blocks) - count :] for part in block.modules()}
    for module in transformer.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(module) not in at_home:
                module._parameters[name] = nn.Parameter(parameter.data.to(device), requires_grad=False)
            elif device.type == "cuda":
                parameter.data = parameter.data.pin_memory()
        if id(module) not in at_home:
            for name, buffer in module._buffers.items():
                module._buffers[name] = None if buffer is None else buffer.to(device)
    for block in blocks[len(blocks) - count :]:
        block.forward = _visiting(block, device)  # type: ignore[method-assign]
    setattr(transformer, _DEVICE, device)
    return transformer


def visited_device(transformer: nn.Module) -> torch.device | None:
    """The device that offloaded blocks visit, where their LoRA belongs; None where nothing is offloaded."""
    return getattr(transformer, _DEVICE, None)


class _Body(nn.Module):
    """A block with its own `forward`, as `functional_call` wants it; no part of the transformer's tree."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.block = block
        self._forward = forward

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self._forward(*inputs, **named)


def _visiting(block: nn.Module, device: torch.device) -> Callable[..., Any]:
    """A `forward` for the block that runs it on copies of the weights it has now."""
    own = block.forward
    home = list(block.parameters())  # kept, so that an id stays this parameter's
    at_home = {id(parameter) for parameter in home}

    def forward(*inputs: Any, **named: Any) -> Any:
        body = _Body(block, own)
        copies = {
            name: parameter.detach().to(device, non_blocking=True, copy=True)
            for name, parameter in body.named_parameters()
            if id(parameter) in at_home
        }
        return functional_call(body, copies, inputs, named)

    return forward
