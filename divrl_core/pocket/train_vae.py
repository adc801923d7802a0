"""Train the pocket's TAESD on crops of rendered figures: at half width first, then widened without changing it.

A width-32 network learns four times as fast a sample on a CPU. Doubling every channel and halving the weights that read
the doubles leaves the function as it was; a little noise lets the doubles part, and training goes on at width 64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..models.pocket_parts import SCALING_FACTOR, SHIFT_FACTOR, AutoencoderTiny, build_vae
from .state import load_state, save_state
from .world import load_shard, shard_path

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """How the pocket's VAE is trained."""

    narrow_steps: int = 3000
    wide_steps: int = 900
    batch_size: int = 4  # crops: early learning is bound by steps, not by samples
    crop_px: int = 64
    narrow_lr: float = 1.5e-3
    wide_lr: float = 7e-4
    latent_noise: float = (
        0.06  # std added to normalised latents: the decoder then forgives a generator's errors
    )
    figure_weight: float = 3.0
    edge_weight: float = 1.0
    square_weight: float = (
        2.0  # of squared errors beside absolute ones: it is the large errors that lower a PSNR
    )
    mixed_precision: Literal["no", "bf16"] = "no"  # "bf16": products in bfloat16, weights in float32
    save_every_steps: int = 200
    report_every_steps: int = 50


# Going on from a trained VAE: at full width, at a rate that does not throw away what it knows.
CONTINUED_VAE = VaeRecipe(
    narrow_steps=0, wide_steps=2400, batch_size=8, wide_lr=8e-4, figure_weight=4.0, square_weight=8.0
)


class CropSource:
    """Random crops from the shards, a pure function of (seed, step)."""

    def __init__(self, folder: Path, shards: int, recipe: VaeRecipe, *, seed: int) -> None:
        loaded = [load_shard(shard_path(folder, number, held_out=False)) for number in range(shards)]
        size = loaded[0].images.shape[2]
        self.images = np.concatenate([shard.images.reshape(-1, size, size, 3) for shard in loaded])
        self.masks = np.concatenate([shard.masks.reshape(-1, size, size) for shard in loaded])
        self.recipe, self.seed, self.size = recipe, seed, size

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops (B, 3, c, c) in [0, 1] and their weights (B, 1, c, c)."""
        rng = np.random.default_rng([self.seed, step])
        crop = self.recipe.crop_px
        images, weights = [], []
        for index in rng.integers(len(self.images), size=self.recipe.batch_size):
            # centres lean to the middle, where the figure is
            top, left = ((rng.beta(2.2, 2.2, size=2)) * (self.size - crop)).astype(int)
            window = (slice(top, top + crop), slice(left, left + crop))
            picture, mask = self.images[index][window], self.masks[index][window]
            if rng.random() < 0.5:
                picture, mask = picture[:, ::-1], mask[:, ::-1]
            images.append(picture)
            weights.append(1 + (self.recipe.figure_weight - 1) * mask)
        pictures = torch.from_numpy(np.ascontiguousarray(np.stack(images))).permute(0, 3, 1, 2).float() / 255
        return pictures, torch.from_numpy(np.stack(weights)).float()[:, None]


def vae_loss(
    vae: AutoencoderTiny,
    pictures: torch.Tensor,
    weights: torch.Tensor,
    noise: torch.Tensor,
    recipe: VaeRecipe,
) -> torch.Tensor:
    """Weighted L1 on pixels and on their differences, plus a pull of the latents to FLUX's mean and scale."""
    raw = vae.encoder(pictures * 2 - 1).float()
    decoded = vae.decoder(raw + noise * (recipe.latent_noise / SCALING_FACTOR)).float() * 0.5 + 0.5
    error = decoded - pictures
    pixel = (weights * (error.abs() + recipe.square_weight * error**2)).mean()
    across = (weights[..., 1:] * (error[..., 1:] - error[..., :-1]).abs()).mean()
    down = (weights[..., 1:, :] * (error[..., 1:, :] - error[..., :-1, :]).abs()).mean()
    normal = (raw - SHIFT_FACTOR) * SCALING_FACTOR
    mean, spread = normal.mean((0, 2, 3)), normal.std((0, 2, 3))
    scale = (mean**2).mean() + ((spread - 1) ** 2).mean()
    return pixel + recipe.edge_weight * (across + down) + 0.05 * scale


def widen(narrow: AutoencoderTiny, wide: AutoencoderTiny, *, seed: int, noise: float = 0.02) -> None:
    """Copy a network of half the width into `wide` so that it computes the same function up to `noise` (relative)."""
    generator = torch.Generator().manual_seed(seed)
    source = narrow.state_dict()
    for name, target in wide.state_dict().items():
        value = source[name]
        if target.shape[0] == 2 * value.shape[0]:
            value = value.repeat_interleave(2, dim=0)
        if value.ndim == 4 and target.shape[1] == 2 * value.shape[1]:
            value = value.repeat_interleave(2, dim=1) / 2
            value = value * (1 + noise * torch.randn(value.shape, generator=generator))
        target.copy_(value)


@torch.no_grad()
def start_from_colours(vae: AutoencoderTiny) -> None:
    """Draw the weights so that three channels already carry the blurred colours from end to end.

    From a plain random start a TAESD spends most of a short training finding out that there is colour at all.
    """
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for layer in (*vae.encoder.layers, *vae.decoder.layers):
        if isinstance(branch := getattr(layer, "conv", None), nn.Sequential):  # a residual block
            last = branch[4]
            assert isinstance(last, nn.Conv2d)
            last.weight.mul_(0.1)
            last.weight[:3] = 0
    blur = torch.tensor([1.0, 2.0, 1.0])
    blur = torch.outer(blur, blur) / 16
    scale, middle = 6.0, 0.65  # of the latents that carry colour

    def carry(conv: nn.Conv2d, kernel: torch.Tensor, gain: float = 1.0) -> None:
        conv.weight[:3] = 0
        for channel in range(3):
            conv.weight[channel, channel] = kernel * gain

    point = torch.zeros(3, 3)
    point[1, 1] = 1
    encoder = [layer for layer in vae.encoder.layers if isinstance(layer, nn.Conv2d)]
    decoder = [layer for layer in vae.decoder.layers if isinstance(layer, nn.Conv2d)]
    carry(encoder[0], point)
    for conv in (*encoder[1:-1], *decoder[1:-1]):
        carry(conv, blur)
    encoder[-1].weight.mul_(0.7)
    carry(encoder[-1], point, scale)
    carry(decoder[0], point, 1.15 / scale)
    for bias, rest, colours in (
        (encoder[-1].bias, SHIFT_FACTOR, SHIFT_FACTOR - scale * middle),
        (decoder[0].bias, 0.0, middle),
    ):
        assert bias is not None  # diffusers gives both ends of the latents a bias
        bias.fill_(rest)
        bias[:3] = colours
    decoder[-1].weight.zero_()
    carry(decoder[-1], point)


def narrow_vae(*, seed: int) -> AutoencoderTiny:
    """The TAESD architecture at width 32, started from colours."""
    config = dict(build_vae(seed=seed).config)
    for side in ("encoder", "decoder"):
        config[f"{side}_block_out_channels"] = (32, 32, 32, 32)
    torch.manual_seed(seed)
    vae = AutoencoderTiny.from_config(config)
    start_from_colours(vae)
    return vae


def train_vae(
    shards_folder: Path,
    shards: int,
    work: Path,
    recipe: VaeRecipe,
    *,
    seed: int,
    progress: Progress,
    start_from: AutoencoderTiny | None = None,
) -> AutoencoderTiny:
    """Train (or go on training) both phases, or the wide one alone from `start_from`; returns the moving average."""
    source = CropSource(shards_folder, shards, recipe, seed=seed)
    if start_from is None:
        narrow = _phase(
            narrow_vae(seed=seed),
            source,
            work / "vae-narrow",
            recipe,
            recipe.narrow_steps,
            recipe.narrow_lr,
            seed=seed,
            progress=progress,
        )
        wide = build_vae(seed=seed)
        widen(narrow, wide, seed=seed)
    else:
        wide = copy.deepcopy(start_from).float().train().requires_grad_(True)
    return _phase(
        wide.to(memory_format=torch.channels_last),  # the faster layout on a CPU
        source,
        work / "vae-wide",
        recipe,
        recipe.wide_steps,
        recipe.wide_lr,
        seed=seed + 1,
        progress=progress,
    )


def _phase(
    vae: AutoencoderTiny,
    source: CropSource,
    folder: Path,
    recipe: VaeRecipe,
    steps: int,
    lr: float,
    *,
    seed: int,
    progress: Progress,
) -> AutoencoderTiny:
    """AdamW with a warm-up and a cosine to a twentieth, and a moving average of the weights."""
    average = copy.deepcopy(vae).requires_grad_(False)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    start = load_state(folder, vae, average, optimizer)
    total = 0.0
    for step in range(start, steps):
        rate = lr * min(1.0, (step + 1) / 50) * (0.53 + 0.47 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        pictures, weights = source.batch(seed * 1_000_000 + step)
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        edge = recipe.crop_px // 8
        noise = torch.randn((len(pictures), vae.config.latent_channels, edge, edge), generator=generator)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.mixed_precision == "bf16"):
            loss = vae_loss(vae, pictures, weights, noise, recipe)
        if not torch.isfinite(loss):
            raise ValueError(f"pocket VAE: loss is {loss.item()} at step {step}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            share = min(0.995, (step + 1) / (step + 20))
            for kept, fresh in zip(average.parameters(), vae.parameters(), strict=True):
                kept.lerp_(fresh, 1 - share)
        total += loss.item()
        if (step + 1) % recipe.report_every_steps == 0:
            progress(f"{folder.name} step {step + 1}/{steps} loss {total / recipe.report_every_steps:.4f}")
            total = 0.0
        if (step + 1) % recipe.save_every_steps == 0 or step + 1 == steps:
            save_state(folder, vae, average, optimizer, step + 1)
    return average


@torch.no_grad()
def round_trip_psnr(vae: AutoencoderTiny, images: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """PSNR in dB over whole pictures and over the figures alone. `images` (n, H, W, 3) uint8, `masks` (n, H, W)."""
    squares, counts, inside, inside_counts = 0.0, 0, 0.0, 0
    for start in range(0, len(images), 8):
        pictures = torch.from_numpy(images[start : start + 8].copy()).permute(0, 3, 1, 2).float() / 255
        decoded = (vae.decoder(vae.encoder(pictures * 2 - 1)) * 0.5 + 0.5).clamp(0, 1)
        error = ((decoded - pictures) ** 2).mean(1)
        mask = torch.from_numpy(masks[start : start + 8].copy())
        squares, counts = squares + float(error.sum()), counts + error.numel()
        inside, inside_counts = inside + float(error[mask].sum()), inside_counts + int(mask.sum())
    return -10 * math.log10(squares / counts), -10 * math.log10(inside / inside_counts)
