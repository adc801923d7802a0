"""The training steps that benchmarks/cfm.py compares: ours, and diffusers' ordinary pattern, plain and cached."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch import Tensor, nn

from divrl_core.config_cfm import CfmConfig
from divrl_core.flow.path import interpolate
from divrl_core.models.attention import attention_kernel
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import (
    POLICY,
    lora_parameters,
)
from divrl_core.pocket.training_pairs import SIZE_PX, PocketPairs
from divrl_core.training.cfm_batches import BatchPart, BatchPlan, SizedPair, sized_pairs
from divrl_core.training.cfm_step import FlowBatch, draw_batch, flow_loss
from divrl_core.training.latent_cache import LatentCache
from divrl_core.training.optimizer import make_optimizer

MODEL = "pocket-text-to-image"
SUBJECTS = 4  # of twelve pairs each
SEED = 0
VAE_SCALE = 8
RIVAL_ADAPTER = "default"


@dataclass(frozen=True)
class Pairs:
    """What the steps are fed: pairs, the product's cache of them, and the pictures as diffusers' datasets hold them."""

    source: PocketPairs
    sized: tuple[SizedPair, ...]
    cache: LatentCache
    pixels: dict[str, Tensor]
    """Picture -> (1, 3, H, W), float32 in [-1, 1]."""

    @classmethod
    def encode(cls, adapter: FluxAdapter, folder: Path) -> Pairs:
        """Encode the pairs as the training loop does; every entry is then in memory, as later in a run."""
        source = PocketPairs(split="train", subjects=SUBJECTS, seed=SEED)
        sized = sized_pairs(source, SIZE_PX, aspect_buckets=True)
        panels = [panel for item in sized for panel in (item.target, item.reference)]
        captions = [caption for item in sized for caption in item.pair.captions]
        cache = LatentCache(folder, adapter)
        cache.encode(source, panels, captions, is_quiet=True)
        adapter.drop_encoders()
        adapter.drop_vae()
        for panel in panels:
            cache.latent(source, panel)
        for caption in captions:
            cache.caption(caption)
        names = dict.fromkeys(panel.picture_id for panel in panels)
        return cls(source, sized, cache, {name: source.load(name)[None] * 2 - 1 for name in names})

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the latents and captions, and of the pictures, each counted once."""
        panels = {panel.picture_id: panel for item in self.sized for panel in (item.target, item.reference)}
        latents = [self.cache.latent(self.source, panel) for panel in panels.values()]
        captions = dict.fromkeys(caption for item in self.sized for caption in item.pair.captions)
        texts = [self.cache.caption(caption) for caption in captions]
        embeddings = [tensor for text in texts for tensor in (text.prompt_embeds, text.pooled)]
        return tensor_bytes([*latents, *embeddings]), tensor_bytes(self.pixels.values())


class Learner(ABC):
    """A transformer with its LoRA and optimizer, and the part of a step that all have in common."""

    encoder_bytes = 0

    def __init__(self, transformer: nn.Module, adapter: str, config: CfmConfig, pairs: Pairs) -> None:
        self.transformer, self.config, self.pairs = transformer, config, pairs
        self.plan = BatchPlan(pairs.sized, config.objective.batch_size, SEED)
        self.parameters: list[Tensor] = list(lora_parameters(transformer, adapter=adapter).values())
        self.optimizer = make_optimizer(config.optim, self.parameters, config.lr)

    @abstractmethod
    def loss(self, number: int) -> Tensor:
        """The loss of micro-batch `number`, from pictures or cache to the scalar."""

    def step(self, number: int) -> Tensor:
        """One whole training step; its loss."""
        loss = self.loss(number)
        loss.backward()
        loss.item()  # for a log
        nn.utils.clip_grad_norm_(self.parameters, self.config.optim.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    @property
    def standing_bytes(self) -> int:
        """What stays in memory between steps: weights, LoRA, moments, and the encoders a step needs."""
        states = self.optimizer.state.values()
        moments = [value for state in states for value in state.values() if isinstance(value, Tensor)]
        return module_bytes(self.transformer) + tensor_bytes(moments) + self.encoder_bytes


class Masked(Learner):
    """The product's step: what `divrl-train cfm` does in an update, by the same functions."""

    def __init__(self, adapter: FluxAdapter, config: CfmConfig, pairs: Pairs) -> None:
        self.adapter = adapter
        super().__init__(adapter.transformer, POLICY, config, pairs)

    def loss(self, number: int) -> Tensor:
        """As of `Learner`."""
        guidance = self.config.model.guidance_scale
        return flow_loss(self.adapter, self.draw(number), guidance=guidance, autocast=nullcontext)

    def draw(self, number: int) -> FlowBatch:
        """Micro-batch `number` with its noise and times."""
        return draw_batch(
            BatchPart(number, 0, self.plan.micro_batch(number)),
            source=self.pairs.source,
            cache=self.pairs.cache,
            adapter=self.adapter,
            config=self.config.objective,
            seed=SEED,
        )

    def velocity(self, batch: FlowBatch) -> Tensor:
        """The prediction of the target's tokens (B, N, C)."""
        ids = self.adapter.target_ids(batch.height, batch.width)
        x_t = interpolate(batch.x_0, batch.eps, batch.t)
        return self.adapter.velocity(x_t, batch.t, batch.conditioning, ids, self.config.model.guidance_scale)


@dataclass(frozen=True)
class Encoders:
    """diffusers' VAE and text encoders of the same pipeline, loaded and used in its own way."""

    vae: AutoencoderTiny
    text: FluxPipeline
    text_tokens: int

    @classmethod
    def load(cls, adapter: FluxAdapter) -> Encoders:
        """Those of the adapter's pipeline, frozen."""
        vae = AutoencoderTiny.from_pretrained(str(adapter.folder.part("vae")))
        text = FluxPipeline.from_pretrained(str(adapter.folder.path), transformer=None, vae=None)
        for part in (vae, text.text_encoder, text.text_encoder_2):
            part.requires_grad_(False).to(adapter.dtype)
        return cls(vae, text, adapter.max_text_tokens)

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """Normalised latents (B, 16, H / 8, W / 8) of pictures in [-1, 1]."""
        latents: Tensor = self.vae.encode(pixels).latents
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    @torch.no_grad()
    def prompts(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """T5's embeddings (B, L, D) and CLIP's pooled ones (B, P)."""
        embeds, pooled, _ = self.text.encode_prompt(
            captions, prompt_2=None, max_sequence_length=self.text_tokens
        )
        return embeds, pooled

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes that each keeps in memory."""
        parts = {"VAE": self.vae, "CLIP": self.text.text_encoder, "T5": self.text.text_encoder_2}
        return {name: module_bytes(part) for name, part in parts.items()}


@dataclass(frozen=True)
class Inputs:
    """Latents (B, 16, h, w) of targets and references, and what the prompts became."""

    target: Tensor
    reference: Tensor
    embeds: Tensor
    pooled: Tensor


class Ordinary(Learner):
    """The rival: diffusers' pattern on one wide picture, the target at the left, the loss on all of it."""

    def __init__(
        self, transformer: nn.Module, encoders: Encoders, kernel: str, config: CfmConfig, pairs: Pairs
    ) -> None:
        super().__init__(transformer, RIVAL_ADAPTER, config, pairs)
        self.encoders, self.kernel = encoders, kernel
        self.encoder_bytes = sum(encoders.sizes.values())
        self.scheduler = FlowMatchEulerDiscreteScheduler.from_config(encoders.text.scheduler.config)

    def inputs(self, number: int) -> Inputs:
        """Micro-batch `number`, encoded now."""
        batch, pixels = self.plan.micro_batch(number), self.pairs.pixels
        embeds, pooled = self.encoders.prompts([item.pair.captions[0] for item in batch])
        return Inputs(
            target=self.encoders.latents(torch.cat([pixels[item.target.picture_id] for item in batch])),
            reference=self.encoders.latents(torch.cat([pixels[item.reference.picture_id] for item in batch])),
            embeds=embeds,
            pooled=pooled,
        )

    def velocity(self, inputs: Inputs, noisy: Tensor, times: Tensor) -> Tensor:
        """The prediction (B, 16, h, 2 w) of the wide picture whose left half is noisy and whose right half is clean."""
        wide = torch.cat([noisy, inputs.reference], dim=-1)
        size, channels, height, width = wide.shape
        ids = FluxPipeline._prepare_latent_image_ids(size, height // 2, width // 2, wide.device, wide.dtype)
        with attention_kernel(self.kernel):
            predicted = self.transformer(
                hidden_states=FluxPipeline._pack_latents(wide, size, channels, height, width),
                timestep=times,
                guidance=torch.full((size,), self.config.model.guidance_scale),
                pooled_projections=inputs.pooled,
                encoder_hidden_states=inputs.embeds,
                txt_ids=torch.zeros(inputs.embeds.shape[1], 3),
                img_ids=ids,
                return_dict=False,
            )[0]
        return FluxPipeline._unpack_latents(predicted, height * VAE_SCALE, width * VAE_SCALE, VAE_SCALE)

    def loss(self, number: int) -> Tensor:
        """As of `Learner`."""
        inputs, objective = self.inputs(number), self.config.objective
        clean = torch.cat([inputs.target, inputs.reference], dim=-1)
        noise = torch.randn_like(clean)
        density = compute_density_for_timestep_sampling(
            objective.time_density, len(clean), logit_mean=objective.time_mean, logit_std=objective.time_std
        )
        indices = (density * self.scheduler.config.num_train_timesteps).long()
        sigmas = self.scheduler.sigmas[indices][:, None, None, None]
        noise_beside_target = noise[..., : inputs.target.shape[-1]]
        noisy = (1.0 - sigmas) * inputs.target + sigmas * noise_beside_target
        predicted = self.velocity(inputs, noisy, self.scheduler.timesteps[indices] / 1000)
        weights = compute_loss_weighting_for_sd3(objective.time_density, sigmas)
        error = weights.float() * (predicted.float() - (noise - clean).float()) ** 2
        return error.reshape(len(error), -1).mean(dim=1).mean()


class OrdinaryCached(Ordinary):
    """The rival with every picture and caption encoded once, held in memory."""

    def __init__(
        self, transformer: nn.Module, encoders: Encoders, kernel: str, config: CfmConfig, pairs: Pairs
    ) -> None:
        super().__init__(transformer, encoders, kernel, config, pairs)
        self.encoder_bytes = 0  # a run of its own would have freed them
        captions = dict.fromkeys(item.pair.captions[0] for item in pairs.sized)
        self._latents = {name: encoders.latents(pixels) for name, pixels in pairs.pixels.items()}
        self._prompts = {caption: encoders.prompts([caption]) for caption in captions}

    def inputs(self, number: int) -> Inputs:
        """Micro-batch `number` as it was encoded before."""
        batch = self.plan.micro_batch(number)
        prompts = [self._prompts[item.pair.captions[0]] for item in batch]
        return Inputs(
            target=torch.cat([self._latents[item.target.picture_id] for item in batch]),
            reference=torch.cat([self._latents[item.reference.picture_id] for item in batch]),
            embeds=torch.cat([embeds for embeds, _ in prompts]),
            pooled=torch.cat([pooled for _, pooled in prompts]),
        )


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Their bytes together."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def module_bytes(module: nn.Module) -> int:
    """Bytes of a module's weights and buffers."""
    return tensor_bytes(module.parameters()) + tensor_bytes(module.buffers())
