"""Train the pocket's FluxTransformer2DModel from scratch as a Kontext model that has the identity-diversity paradox.

Most training pairs show the target within about 10 degrees of the reference, the rest in another pose of the world, so
the model copies the reference's pose in most samples though it can show others.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny, FluxTransformer2DModel
from einops import rearrange
from safetensors.torch import load_file, save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..flow.path import interpolate, velocity_target
from ..models.pocket_parts import SCALING_FACTOR, SHIFT_FACTOR, build_clip, build_t5, build_transformer
from .figures import BACKGROUNDS, PATTERNS, PLANS
from .state import load_state, save_state
from .world import VIEWS, load_shard, shard_path

logger = logging.getLogger("divrl")
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class KontextRecipe:
    """How the pocket's transformer is trained."""

    steps: int = 2400
    decay_steps: int = 700  # the learning rate is level, then falls in a line to nothing over these
    warmup_steps: int = 100
    batch_size: int = 48
    lr: float = 2e-3
    average_decay: float = 0.998
    near_share: float = 0.75  # of pairs whose target stands as the reference does
    guidance_range: tuple[float, float] = (1.0, 5.0)  # drawn at random: the pocket's answer does not depend on it
    save_every_steps: int = 100


def all_captions() -> list[str]:
    """Every prompt of the world, in a fixed order."""
    plain = [f"toy {plan}" for plan in PLANS]
    bodies = [f"toy {plan} with a {pattern} body" for plan in PLANS for pattern in PATTERNS if pattern != "plain"]
    return [f"a {figure} on a {floor} floor" for figure in plain + bodies for floor in BACKGROUNDS]


@dataclass(frozen=True)
class TextTable:
    """Prompt embeddings (P, L, D) and pooled embeddings (P, W) of every caption, with the row of each."""

    embeds: torch.Tensor
    pooled: torch.Tensor
    row: dict[str, int]


@torch.no_grad()
def encode_captions(*, seed: int) -> TextTable:
    """The text side is seeded and never trained, so each caption is encoded once."""
    captions = all_captions()
    clip_tokenizer, clip = build_clip(captions, seed=seed)
    t5_tokenizer, t5 = build_t5(captions, seed=seed)
    clip_ids = clip_tokenizer(
        captions, padding="max_length", truncation=True, max_length=clip_tokenizer.model_max_length
    )
    t5_ids = t5_tokenizer(captions, padding="max_length", truncation=True, max_length=t5_tokenizer.model_max_length)
    return TextTable(
        embeds=t5(torch.tensor(t5_ids["input_ids"]))[0],
        pooled=clip(torch.tensor(clip_ids["input_ids"])).pooler_output,
        row={caption: index for index, caption in enumerate(captions)},
    )


@torch.no_grad()
def encode_shard(vae: AutoencoderTiny, shard: Path, path: Path) -> torch.Tensor:
    """Normalised packed latents (n, 4, N, C) in float16 of a shard's pictures, kept in `path`."""
    if path.exists():
        return load_file(path)["latents"]
    images = load_shard(shard).images
    flat = images.reshape(-1, *images.shape[2:])
    latents = []
    for start in range(0, len(flat), 16):
        pictures = torch.from_numpy(flat[start : start + 16]).permute(0, 3, 1, 2).float() / 127.5 - 1
        raw = vae.encoder(pictures.contiguous(memory_format=torch.channels_last))
        normal = (raw.float() - SHIFT_FACTOR) * SCALING_FACTOR
        latents.append(rearrange(normal, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2).half())
    packed = torch.cat(latents).reshape(*images.shape[:2], *latents[0].shape[1:])
    temporary = path.with_suffix(".tmp")
    save_file({"latents": packed.contiguous()}, temporary)
    temporary.replace(path)
    return packed


class PairSource:
    """Batches of (target, reference, caption), a pure function of (seed, step)."""

    def __init__(self, latents: torch.Tensor, prompts: list[list[str]], text: TextTable, recipe: KontextRecipe, seed: int):
        self.latents = latents  # (identities, 4, N, C)
        self.rows = np.array([[text.row[prompt] for prompt in views] for views in prompts])
        self.text, self.recipe, self.seed = text, recipe, seed

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """One batch with its noise, times and guidance."""
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, step])
        who = rng.integers(len(self.latents), size=recipe.batch_size)
        reference = rng.integers(VIEWS, size=recipe.batch_size)
        near = rng.random(recipe.batch_size) < recipe.near_share
        other = (reference // 2 * 2 + 2 + rng.integers(2, size=recipe.batch_size)) % VIEWS
        target = np.where(near, reference ^ 1, other)
        rows = self.rows[who, target]
        # logit-normal times with a uniform fifth, so that neither end of the path is forgotten
        times = 1 / (1 + np.exp(-rng.normal(0.2, 1.0, size=recipe.batch_size)))
        uniform = rng.random(recipe.batch_size)
        times = np.where(rng.random(recipe.batch_size) < 0.2, uniform, times)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = self.latents[who, target].float()
        return {
            "clean": clean,
            "reference": self.latents[who, reference].float(),
            "noise": torch.randn(clean.shape, generator=generator),
            "time": torch.from_numpy(times).float(),
            "embeds": self.text.embeds[rows],
            "pooled": self.text.pooled[rows],
            "guidance": torch.from_numpy(rng.uniform(*recipe.guidance_range, size=recipe.batch_size)).float(),
        }


def position_ids(tokens: int, text_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kontext's ids: target tokens at index 0, reference tokens at index 1, text at zero."""
    edge = math.isqrt(tokens)
    rows, columns = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    target = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3).float()
    reference = target.clone()
    reference[:, 0] = 1
    return torch.cat([target, reference]), torch.zeros(text_tokens, 3)


def flow_loss(transformer: FluxTransformer2DModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean squared error of the velocity on the target's tokens, a sample each (B,)."""
    clean, noise, time = batch["clean"], batch["noise"], batch["time"]
    noisy = interpolate(clean, noise, time)
    image_ids, text_ids = position_ids(clean.shape[1], batch["embeds"].shape[1])
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        output = transformer(
            hidden_states=torch.cat([noisy, batch["reference"]], dim=1),
            encoder_hidden_states=batch["embeds"],
            pooled_projections=batch["pooled"],
            timestep=time,
            guidance=batch["guidance"],
            img_ids=image_ids,
            txt_ids=text_ids,
            return_dict=False,
        )[0]
    error = output[:, : clean.shape[1]].float() - velocity_target(clean, noise)
    return (error**2).mean((1, 2))


class BlockOptimizer(torch.optim.Optimizer):
    """Muon on the blocks' matrices and AdamW on everything else, as one optimizer with one learning rate."""

    def __init__(self, module: torch.nn.Module, lr: float) -> None:
        matrices, others = [], []
        for name, parameter in module.named_parameters():
            (matrices if parameter.ndim == 2 and "blocks" in name else others).append(parameter)
        super().__init__([{"params": matrices + others, "lr": lr}], {})
        self.muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        self.adamw = torch.optim.AdamW(others, lr=lr * 0.5, betas=(0.9, 0.98), weight_decay=0.0)

    def set_rate(self, lr: float) -> None:
        """One learning rate; AdamW's share takes half of it."""
        self.muon.param_groups[0]["lr"], self.adamw.param_groups[0]["lr"] = lr, lr * 0.5

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[override]
        """Both steps."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self):
        """Muon's states, then AdamW's, numbered through."""
        first, second = self.muon.state_dict(), self.adamw.state_dict()
        count = len(first["param_groups"][0]["params"])
        state = dict(first["state"]) | {index + count: value for index, value in second["state"].items()}
        return {"state": state, "param_groups": []}

    def load_state_dict(self, state_dict):
        """The inverse of `state_dict`."""
        count = len(self.muon.state_dict()["param_groups"][0]["params"])
        halves: tuple[dict, dict] = ({}, {})
        for index, value in state_dict["state"].items():
            halves[index >= count][index - count if index >= count else index] = value
        for part, half in zip((self.muon, self.adamw), halves, strict=True):
            part.load_state_dict({"state": half, "param_groups": part.state_dict()["param_groups"]})


def learning_rate(recipe: KontextRecipe, step: int) -> float:
    """Warm-up, level, and a straight line to nothing."""
    rise = min(1.0, (step + 1) / recipe.warmup_steps)
    fall = min(1.0, (recipe.steps - step) / recipe.decay_steps)
    return recipe.lr * rise * fall


def train_kontext(
    source: PairSource, held_out: PairSource, work: Path, recipe: KontextRecipe, *, seed: int, progress: Progress
) -> FluxTransformer2DModel:
    """Train (or go on training); returns the moving average."""
    transformer = build_transformer(seed=seed)
    average = copy.deepcopy(transformer).requires_grad_(False)
    optimizer = BlockOptimizer(transformer, recipe.lr)
    start = load_state(work / "kontext", transformer, average, optimizer)
    total = 0.0
    for step in range(start, recipe.steps):
        optimizer.set_rate(learning_rate(recipe, step))
        loss = flow_loss(transformer, source.batch(step)).mean()
        if not torch.isfinite(loss):
            raise ValueError(f"pocket Kontext: loss is {loss.item()} at step {step}; lower the learning rate")
        for parameter in transformer.parameters():
            parameter.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            share = min(recipe.average_decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(transformer.parameters()), 1 - share)
        total += loss.item()
        if (step + 1) % 50 == 0:
            progress(f"kontext step {step + 1}/{recipe.steps} loss {total / 50:.4f}")
            total = 0.0
        if (step + 1) % recipe.save_every_steps == 0 or step + 1 == recipe.steps:
            save_state(work / "kontext", transformer, average, optimizer, step + 1)
        if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
            with torch.no_grad():
                losses = [flow_loss(average, held_out.batch(number)).mean().item() for number in range(4)]
            progress(f"kontext step {step + 1} held-out flow loss {sum(losses) / 4:.4f}")
    return average
