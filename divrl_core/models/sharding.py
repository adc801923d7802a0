"""A frozen base spread over the processes of a run (FSDP2), its LoRA whole in each of them."""

from __future__ import annotations

import warnings

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor


def shard_base(
    transformer: nn.Module,
    device: torch.device,
    *,
    processes: int,
    reshard_after_forward: bool = True,
    offload_to_host: bool = False,
) -> None:
    """Spread the frozen weights over all processes, block by block; what LoRA layers add stays whole and plain.

    Each process holds its share, and a block is put together while it computes: velocities and gradients are those of
    the whole model, bit for bit. From then on every forward and backward is a collective: all processes must make
    equally many, in the same order. LoRA weights stay ordinary parameters, so exports, averages and checkpoints know
    nothing of it. Weights that lie in host memory move to `device` a block at a time.

    reshard_after_forward: let go of a block as soon as it has answered (else after the backward pass).
    offload_to_host: keep the shares in host memory.
    """
    mesh = init_device_mesh(device.type, (processes,))
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload_to_host else OffloadPolicy()
    whole = _adapter_parameters(transformer)
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]  # type: ignore[misc]
    for module in [*blocks, transformer]:  # the whole last: it takes what lies outside of blocks
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=reshard_after_forward,
            offload_policy=policy,
            ignored_params=whole,
        )
    for parameter in whole:
        parameter.data = parameter.data.to(device)
    # The model's output is a view, which nothing here changes in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def held_bytes(transformer: nn.Module) -> int:
    """Bytes of the frozen weights that this process holds: its share where they are spread."""
    whole = _adapter_parameters(transformer)
    total = 0
    for parameter in transformer.parameters():
        if parameter not in whole:
            own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            total += own.numel() * own.element_size()
    return total


def _adapter_parameters(transformer: nn.Module) -> set[nn.Parameter]:
    return {
        parameter
        for module in transformer.modules()
        if isinstance(module, LoraLayer)
        for part in (module.lora_A, module.lora_B)
        for parameter in part.parameters()
    }
