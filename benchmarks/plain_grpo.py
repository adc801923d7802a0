"""Flow-GRPO on Kontext as it is usually written, on diffusers' classes alone: the rival of benchmarks/grpo.py.

Each micro-batch encodes the prompt and the reference of each of its samples, then samples; each step keeps its latents
and its log-probability. Training goes over the micro-batches and their trained steps and runs the transformer again.
Nothing is wasted on purpose: what a sample needs more than once (embeddings, ids, latents) is computed once and kept.
Nothing is shared between samples. The attention kernel is torch's choice. There is no gradient checkpointing unless it
is asked for, as in the public code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxKontextPipeline
from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift
from peft import LoraConfig
from torch import Tensor, nn

ADAPTER = "default"

Noise = Callable[[int, int], Tensor]
"""(sample, step) -> standard normal noise (N, C); step 0 is the picture's first noise."""


@dataclass(frozen=True)
class Conditions:
    """What the transformer is told of B samples."""

    prompt_embeds: Tensor
    pooled: Tensor
    text_ids: Tensor
    reference_tokens: Tensor
    image_ids: Tensor


@dataclass(frozen=True)
class Sampled:
    """B samples: conditions, latents before and after each trained step, log-probabilities (B,), and the pictures."""

    conditions: Conditions
    latents: tuple[Tensor, ...]
    next_latents: tuple[Tensor, ...]
    log_probs: tuple[Tensor, ...]
    pictures: Tensor


class PlainGrpo:
    """A pipeline with its LoRA and optimizer."""

    def __init__(
        self,
        folder: Path,
        *,
        lora_rank: int,
        lora_alpha: float,
        lora_modules: str,
        size_px: int,
        text_tokens: int,
        steps: int,
        trained_steps: Sequence[int],
        noise_level: float,
        guidance: float,
        clip_range: float,
        learning_rate: float,
        checkpointing: bool = False,
    ) -> None:
        self.pipeline = FluxKontextPipeline.from_pretrained(folder, torch_dtype=torch.float32)
        for part in (self.pipeline.vae, self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            part.requires_grad_(False).eval()
        self.transformer = self.pipeline.transformer.requires_grad_(False)
        self.transformer.add_adapter(
            LoraConfig(r=lora_rank, lora_alpha=lora_alpha, target_modules=lora_modules), adapter_name=ADAPTER
        )
        if checkpointing:
            self.transformer.enable_gradient_checkpointing()
        self.parameters = [p for p in self.transformer.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=learning_rate)
        self.size_px, self.text_tokens, self.guidance = size_px, text_tokens, guidance
        self.steps, self.trained_steps, self.noise_level = steps, tuple(trained_steps), noise_level
        self.clip_range = clip_range
        self._set_times()

    def _set_times(self) -> None:
        scheduler, side = self.pipeline.scheduler, self.size_px // 16
        config = scheduler.config
        mu = calculate_shift(
            side * side,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / self.steps, self.steps), mu=mu)
        self.sigmas: list[float] = scheduler.sigmas.tolist()

    @torch.no_grad()
    def encode(self, prompt: str, reference: Tensor, count: int) -> Conditions:
        """Prompt and reference (3, S, S) in [0, 1] of each of `count` samples."""
        embeds, pooled, text_ids = self.pipeline.encode_prompt(
            prompt=[prompt] * count, prompt_2=None, max_sequence_length=self.text_tokens
        )
        image = self.pipeline.image_processor.preprocess(torch.stack([reference] * count))
        _, tokens, target_ids, reference_ids = self.pipeline.prepare_latents(
            image,
            count,
            self.transformer.config.in_channels // 4,
            self.size_px,
            self.size_px,
            embeds.dtype,
            embeds.device,
        )
        return Conditions(embeds, pooled, text_ids, tokens, torch.cat([target_ids, reference_ids]))

    def velocity(self, x_t: Tensor, step: int, conditions: Conditions) -> Tensor:
        """The transformer, called as diffusers' pipeline does."""
        count = len(x_t)
        prediction = self.transformer(
            hidden_states=torch.cat([x_t, conditions.reference_tokens], dim=1),
            timestep=torch.full((count,), self.sigmas[step]),
            guidance=torch.full((count,), self.guidance),
            pooled_projections=conditions.pooled,
            encoder_hidden_states=conditions.prompt_embeds,
            txt_ids=conditions.text_ids,
            img_ids=conditions.image_ids,
            return_dict=False,
        )[0]
        return prediction[:, : x_t.shape[1]]

    def step_distribution(self, x_t: Tensor, v: Tensor, step: int) -> tuple[Tensor, float]:
        """Mean and standard deviation of Flow-GRPO's stochastic step."""
        t, t_next = self.sigmas[step], self.sigmas[step + 1]
        dt = t_next - t
        std = self.noise_level * math.sqrt(t / (1 - (self.sigmas[1] if t == 1 else t)))
        mean = x_t * (1 + std**2 / (2 * t) * dt) + v * (1 + std**2 * (1 - t) / (2 * t)) * dt
        return mean, std * math.sqrt(-dt)

    def log_prob_of(self, x_t: Tensor, x_next: Tensor, step: int, conditions: Conditions) -> Tensor:
        """Log-probability (B,) of a step that was drawn before, differentiable."""
        mean, std = self.step_distribution(x_t, self.velocity(x_t, step, conditions), step)
        return log_prob(x_next, mean, std)

    @torch.no_grad()
    def roll_out(self, prompt: str, reference: Tensor, samples: Sequence[int], noise: Noise) -> Sampled:
        """Encode, sample and decode one micro-batch."""
        conditions = self.encode(prompt, reference, len(samples))
        x_t = torch.stack([noise(sample, 0) for sample in samples])
        latents, next_latents, log_probs = [], [], []
        for step in range(self.steps):
            v = self.velocity(x_t, step, conditions)
            if step in self.trained_steps:
                mean, std = self.step_distribution(x_t, v, step)
                x_next = mean + std * torch.stack([noise(sample, step + 1) for sample in samples])
                latents.append(x_t)
                next_latents.append(x_next)
                log_probs.append(log_prob(x_next, mean, std))
            else:
                x_next = x_t + v * (self.sigmas[step + 1] - self.sigmas[step])
            x_t = x_next
        return Sampled(conditions, tuple(latents), tuple(next_latents), tuple(log_probs), self.decode(x_t))

    def decode(self, tokens: Tensor) -> Tensor:
        """Pictures (B, 3, S, S) in [0, 1]."""
        vae, side = self.pipeline.vae, self.size_px
        latents = self.pipeline._unpack_latents(tokens, side, side, self.pipeline.vae_scale_factor)
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        pictures = vae.decode(latents, return_dict=False)[0]
        return self.pipeline.image_processor.postprocess(pictures, output_type="pt")

    def gradient(self, batches: Sequence[Sampled], advantages: Tensor) -> None:
        """Add the gradient of the clipped objective, its mean over samples and trained steps."""
        count, start = sum(len(batch.pictures) for batch in batches) * len(self.trained_steps), 0
        for batch in batches:
            own = advantages[start : start + len(batch.pictures)]
            start += len(own)
            for place, step in enumerate(self.trained_steps):
                now = self.log_prob_of(
                    batch.latents[place], batch.next_latents[place], step, batch.conditions
                )
                ratio = torch.exp(now - batch.log_probs[place])
                held = ratio.clamp(1 - self.clip_range, 1 + self.clip_range)
                loss = torch.maximum(-own * ratio, -own * held)
                (loss.sum() / count).backward()

    def learn(self, batches: Sequence[Sampled], advantages: Tensor) -> None:
        """One optimizer step from the group."""
        self.gradient(batches, advantages)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def log_prob(x_next: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log-density of a step, averaged over elements, (B,)."""
    density = -((x_next - mean) ** 2) / (2 * std**2) - math.log(std) - math.log(math.sqrt(2 * math.pi))
    return density.mean(dim=(1, 2))
