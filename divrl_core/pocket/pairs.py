"""Training pairs of the pocket Kontext: latents encoded once, captions encoded once, batches keyed by the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from ..models.pocket_parts import SCALING_FACTOR, SHIFT_FACTOR, AutoencoderTiny, build_clip, build_t5
from .figures import BACKGROUNDS, PATTERNS, PLANS
from .world import VIEWS, load_shard


@dataclass(frozen=True, kw_only=True)
class TransformerRecipe:
    """How the pocket's transformer is trained."""

    conditioning: Literal["kontext", "none"] = "kontext"  # "none": text to image
    shards: int = 51  # of 64 identities, four pictures each
    steps: int
    decay_steps: int  # the learning rate is level, then falls in a line to nothing over these
    warmup_steps: int = 50
    batch_size: int = 64
    lr: float = 1.5e-3
    average_decay: float = 0.998
    near_share: float = 0.8  # of pairs whose target stands as the reference does, above `near_above_time`
    # Whether to copy is decided in the noise. Below this time a noisy picture shows its own pose, and the share only
    # says which pictures are learned to be drawn well: there it is `near_share_below`.
    near_above_time: float = 0.7
    near_share_below: float = 0.25
    time_mean: float = 0.2  # of the logit-normal times; more of it leans to noise, where a pose is chosen
    guidance_range: tuple[float, float] = (1.0, 5.0)  # embedded; means nothing until it is distilled
    guidance_below_time: float | None = (
        None  # distil guidance: learn from the guided teacher, guided below this
    )
    mixed_precision: Literal["no", "bf16"] = "no"  # "bf16": products in bfloat16, weights in float32
    compile: bool = False  # torch.compile: a minute at the start, then faster steps
    save_every_steps: int = 100
    report_every_steps: int = 50

    @property
    def phase(self) -> str:
        """The phase of a build that this recipe is for."""
        if self.conditioning == "none":
            return "text_to_image"
        return "kontext" if self.guidance_below_time is None else "guidance"


# First without a reference: a step costs half as much, and how figures stand is learned here.
TEXT_TO_IMAGE = TransformerRecipe(
    conditioning="none",
    steps=1000,
    decay_steps=400,
    warmup_steps=50,
    lr=1.5e-3,
    time_mean=0.5,
)
KONTEXT = TransformerRecipe(steps=3600, decay_steps=1200, warmup_steps=50, lr=1.5e-3)
# Last, the guided velocity of both, so that one pass does the work of two, as in FLUX.1-dev.
GUIDANCE = TransformerRecipe(
    steps=600, decay_steps=300, warmup_steps=30, lr=1e-3, guidance_below_time=0.7, average_decay=0.99
)


def all_captions() -> list[str]:
    """Every prompt of the world, in a fixed order."""
    plain = [f"toy {plan}" for plan in PLANS]
    bodies = [
        f"toy {plan} with a {pattern} body" for plan in PLANS for pattern in PATTERNS if pattern != "plain"
    ]
    return [f"a {figure} on a {floor} floor" for figure in plain + bodies for floor in BACKGROUNDS]


@dataclass(frozen=True)
class TextTable:
    """Prompt embeddings (P, L, D) and pooled embeddings (P, W) of every caption, with the row of each."""

    embeds: torch.Tensor
    pooled: torch.Tensor
    row: dict[str, int]


def text_table(captions: Sequence[str], embeds: torch.Tensor, pooled: torch.Tensor) -> TextTable:
    """The table of captions that were encoded in this order."""
    return TextTable(embeds, pooled, {caption: index for index, caption in enumerate(captions)})


@torch.no_grad()
def encode_captions(*, seed: int) -> TextTable:
    """The text side is seeded and never trained, so each caption is encoded once."""
    captions = all_captions()
    clip_tokenizer, clip = build_clip(captions, seed=seed)
    t5_tokenizer, t5 = build_t5(captions, seed=seed)
    clip_ids = clip_tokenizer(
        captions, padding="max_length", truncation=True, max_length=clip_tokenizer.model_max_length
    )
    t5_ids = t5_tokenizer(
        captions, padding="max_length", truncation=True, max_length=t5_tokenizer.model_max_length
    )
    embeds = t5(torch.tensor(t5_ids["input_ids"]))[0]
    return text_table(captions, embeds, clip(torch.tensor(clip_ids["input_ids"])).pooler_output)


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

    def __init__(
        self,
        latents: torch.Tensor,
        prompts: list[list[str]],
        text: TextTable,
        recipe: TransformerRecipe,
        seed: int,
    ):
        self.latents = latents  # (identities, 4, N, C)
        self.rows = np.array([[text.row[prompt] for prompt in views] for views in prompts])
        self.text, self.recipe, self.seed = text, recipe, seed

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """One batch with its noise, times and guidance."""
        recipe = self.recipe
        rng = np.random.default_rng([self.seed, step])
        who = rng.integers(len(self.latents), size=recipe.batch_size)
        reference = rng.integers(VIEWS, size=recipe.batch_size)
        # logit-normal times with a uniform fifth, so that neither end of the path is forgotten
        times = 1 / (1 + np.exp(-rng.normal(recipe.time_mean, 1.0, size=recipe.batch_size)))
        uniform = rng.random(recipe.batch_size)
        times = np.where(rng.random(recipe.batch_size) < 0.2, uniform, times)
        shares = np.where(times > recipe.near_above_time, recipe.near_share, recipe.near_share_below)
        near = rng.random(recipe.batch_size) < shares
        other = (reference // 2 * 2 + 2 + rng.integers(2, size=recipe.batch_size)) % VIEWS
        target = np.where(near, reference ^ 1, other)
        rows = self.rows[who, target]
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clean = self.latents[who, target].float()
        return {
            "clean": clean,
            "near": torch.from_numpy(near),
            "reference": self.latents[who, reference].float(),
            "noise": torch.randn(clean.shape, generator=generator),
            "time": torch.from_numpy(times).float(),
            "embeds": self.text.embeds[rows],
            "pooled": self.text.pooled[rows],
            "guidance": torch.from_numpy(rng.uniform(*recipe.guidance_range, size=recipe.batch_size)).float(),
        }
