"""A model with a LoRA that has an effect: what it answers, and its gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import load_lora_state, lora_parameters, lora_state


def velocity(adapter: FluxAdapter) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randn(3, 4, 64, generator=generator)
    references = torch.rand(3, 3, 32, 32, generator=generator)
    if "given" not in adapter.__dict__:
        adapter.__dict__["given"] = adapter.encode(["a fox", "a robot", "snow"], references)
    return adapter.velocity(x_t, 0.7, adapter.__dict__["given"], adapter.target_ids(32, 32), 2.5)


def moved_lora(transformer: nn.Module, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=generator) * 0.02
        for name, value in lora_state(transformer).items()
    }
    load_lora_state(transformer, state)


def gradient(adapter: FluxAdapter) -> tuple[Tensor, dict[str, Tensor]]:
    parameters = lora_parameters(adapter.transformer)
    v = velocity(adapter)
    v.square().mean().backward()
    gradients = {name: value.grad.clone() for name, value in parameters.items()}  # type: ignore[union-attr]
    for value in parameters.values():
        value.grad = None
    return v.detach(), gradients
