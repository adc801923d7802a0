"""The model that is trained: a Kontext transformer with its LoRA, at one picture size and guidance.

Rollout, training and evaluation all ask this one object for velocities, so that size, guidance, precision and kernels
cannot differ between them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from ..models.conditioning import Conditioning
from ..models.flux import FluxAdapter
from ..models.lora import (
    OLD,
    REFERENCE,
    disabled_lora,
    lora_parameters,
    using_adapter,
    with_lora_state,
)

Autocast = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A Kontext adapter whose transformer holds the trained LoRA, and the conditions it is run under.

    size_px: side of the square pictures. guidance: embedded guidance scale. autocast: the precision, entered around
    every call of the model. kl_reference: what KL holds on to, the base model or the frozen LoRA of the start.
    """

    adapter: FluxAdapter
    size_px: int
    guidance: float
    autocast: Autocast = nullcontext
    kl_reference: Literal["base", "init"] = "base"

    @property
    def device(self) -> torch.device:
        return self.adapter.device

    @property
    def storage_dtype(self) -> torch.dtype:
        """The dtype that latents of a trajectory are rounded to before anything is computed from them."""
        return self.adapter.dtype

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, C) of one picture's latent tokens."""
        return self.adapter.latent_shape(self.size_px, self.size_px)

    @cached_property
    def target_ids(self) -> Tensor:
        return self.adapter.target_ids(self.size_px, self.size_px)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The LoRA's own parameters by name, in the model's order."""
        return lora_parameters(self.adapter.transformer)

    def times(self, steps: int) -> tuple[float, ...]:
        """The schedule of a sampling run: `steps` + 1 times from 1 (noise) to 0."""
        return tuple(self.adapter.sigmas(steps, self.size_px, self.size_px).tolist())

    def velocity(self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        """The policy's velocity (B, N, C), float32, under the caller's gradient mode; t: one number or one a sample."""
        with self.autocast():
            return self.adapter.velocity(x_t, t, conditioning, self.target_ids, self.guidance)

    @torch.no_grad()
    def reference_velocity(self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity of the policy that KL holds on to."""
        transformer = self.adapter.transformer
        is_base = self.kl_reference == "base"
        with disabled_lora(transformer) if is_base else using_adapter(transformer, REFERENCE):
            return self.velocity(x_t, t, conditioning)

    @torch.no_grad()
    def old_velocity(self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning) -> Tensor:
        """The velocity of the old policy, where the transformer holds one (DiffusionNFT)."""
        with self.as_old():
            return self.velocity(x_t, t, conditioning)

    def as_old(self) -> AbstractContextManager[None]:
        """Inside this block the old policy answers in place of the trained one."""
        return using_adapter(self.adapter.transformer, OLD)

    @torch.no_grad()
    def sample(self, conditioning: Conditioning, noise: Tensor, *, steps: int) -> Tensor:
        """Pictures (B, 3, H, W), float32 in [0, 1], by deterministic sampling from noise (B, N, C) in one batch."""
        side = self.size_px
        with self.autocast():
            tokens = self.adapter.sample(
                conditioning,
                noise,
                height=side,
                width=side,
                steps=steps,
                guidance=self.guidance,
                micro_batch=len(noise),
            )
        return self.decode(tokens)

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Clean tokens (B, N, C) as pictures (B, 3, H, W), float32 in [0, 1]."""
        with self.autocast():
            return self.adapter.decode(tokens, self.size_px, self.size_px)

    def with_weights(self, weights: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Inside this block the LoRA has these weights (the average, say); afterwards its own again, bit for bit."""
        return with_lora_state(self.adapter.transformer, weights)
