"""Build the pocket Kontext from nothing: draw the world, train the VAE, train the transformer, write the pipeline.

Every phase keeps its state in the work folder; killed at any moment, the same call goes on from there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Literal

import torch

from ..models.pocket_parts import AutoencoderTiny, FluxTransformer2DModel, build_pipeline
from .pairs import KontextRecipe, PairSource, all_captions, encode_captions, encode_shard
from .train_kontext import Progress, train_kontext
from .train_vae import VaeRecipe, round_trip_psnr, train_vae
from .world import load_shard, render_split, shard_path

logger = logging.getLogger("divrl")

TRAIN_SHARDS, HELD_OUT_SHARDS = 28, 1
VAE_SHARDS = 28


class OutOfTime(Exception):
    """The minutes given are over; everything is saved and the same command goes on."""


def build(
    output: Path,
    *,
    stage: Literal["all", "vae"] = "all",
    minutes: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    vae_recipe: VaeRecipe | None = None,
    kontext_recipe: KontextRecipe | None = None,
    train_shards: int = TRAIN_SHARDS,
    vae_shards: int = VAE_SHARDS,
    report: Progress = logger.info,
) -> Path | None:
    """Run the stages that are not finished; returns the pipeline's folder once it is whole.

    `minutes` stops between two steps; None runs to the recipe's end. `report` is told what was done, and may itself
    raise OutOfTime.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    vae_recipe, kontext_recipe = vae_recipe or VaeRecipe(), kontext_recipe or KontextRecipe()
    work, shards = output / "work", output / "shards"
    work.mkdir(parents=True, exist_ok=True)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def progress(message: str) -> None:
        report(message)
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTime

    try:
        for path in render_split(shards, train_shards, seed=seed):
            progress(f"drawn {path.name}")
        for path in render_split(shards, HELD_OUT_SHARDS, seed=seed, held_out=True):
            progress(f"drawn {path.name}")
        vae = train_vae(shards, vae_shards, work, vae_recipe, seed=seed, progress=progress)
        if stage == "vae":
            return None
        transformer = _transformer(
            vae, shards, work, kontext_recipe, train_shards, seed=seed, progress=progress
        )
    except OutOfTime:
        logger.info("time is over; the same command goes on from here")
        return None
    return write_pipeline(vae, transformer, output / "pipeline", shards, seed=seed)


def _transformer(
    vae: AutoencoderTiny,
    shards: Path,
    work: Path,
    recipe: KontextRecipe,
    count: int,
    *,
    seed: int,
    progress: Progress,
) -> FluxTransformer2DModel:
    """Encode every shard once, then train."""
    coder = (
        vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    )  # the faster layout on a CPU
    text = encode_captions(seed=seed)
    sources = []
    for held_out, number_of_shards in ((False, count), (True, HELD_OUT_SHARDS)):
        latents, prompts = [], []
        for number in range(number_of_shards):
            path = shard_path(shards, number, held_out=held_out)
            latents.append(encode_shard(coder, path, work / f"latents-{path.stem}.safetensors"))
            prompts.extend(load_shard(path).prompts)
            progress(f"encoded {path.stem}")
        sources.append(PairSource(torch.cat(latents), prompts, text, recipe, seed))
    train, held_out_pairs = sources
    return train_kontext(train, held_out_pairs, work, recipe, seed=seed, progress=progress)


def write_pipeline(
    vae: AutoencoderTiny, transformer: FluxTransformer2DModel, folder: Path, shards: Path, *, seed: int
) -> Path:
    """Write a diffusers folder whole or not at all: transformer in bfloat16, VAE in float16, text side in float16."""
    held_out = load_shard(shard_path(shards, 0, held_out=True))
    psnr, figure_psnr = round_trip_psnr(vae, held_out.images[:, 0], held_out.masks[:, 0])
    pipeline = build_pipeline(vae.half(), transformer.to(torch.bfloat16), all_captions(), seed=seed)
    pipeline.text_encoder.half()
    pipeline.text_encoder_2.half()
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    facts = {
        "image_size_px": held_out.images.shape[2],
        "seed": seed,
        "vae_psnr_db": round(psnr, 2),
        "vae_figure_psnr_db": round(figure_psnr, 2),
    }
    (fresh / "divrl.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(fresh, folder)
    logger.info("pipeline in %s: VAE %.1f dB, on the figure %.1f dB", folder, psnr, figure_psnr)
    return folder
