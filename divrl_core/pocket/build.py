"""Build the pocket Kontext from nothing: draw the world, train the VAE and the transformer, write the pipeline.

The transformer learns to draw without a reference first (text to image, half the cost a step), then beside one. Every
phase keeps its state in the work folder; killed at any moment, the same call goes on from there. Or begin with
a finished pipeline: its text side stays as it is, its transformer is trained further, and its VAE before it if asked.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import save_file

from ..models.kontext import KontextAdapter
from ..models.pocket_parts import AutoencoderTiny, FluxTransformer2DModel, build_pipeline
from ..training.files import json_ready, write_atomic_json
from .pairs import (
    CONTINUED,
    TEXT_TO_IMAGE,
    PairSource,
    TextTable,
    TransformerRecipe,
    all_captions,
    encode_captions,
    encode_shard,
    text_table,
)
from .train_transformer import Progress, train_transformer
from .train_vae import CONTINUED_VAE, VaeRecipe, round_trip_psnr, train_vae
from .world import load_shard, render_split, shard_path

logger = logging.getLogger("divrl")

HELD_OUT_SHARDS = 1


class OutOfTime(Exception):
    """The minutes given are over; everything is saved and the same command goes on."""


def build(
    output: Path,
    *,
    start_from: str | None = None,
    vae: Literal["train", "keep"] = "train",
    stage: Literal["all", "vae"] = "all",
    minutes: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    vae_recipe: VaeRecipe | None = None,
    text_to_image_recipe: TransformerRecipe | None = None,
    kontext_recipe: TransformerRecipe | None = None,
    report: Progress = logger.info,
) -> Path | None:
    """Run the stages that are not finished; returns the pipeline's folder once it is whole.

    `start_from` is a pocket pipeline ("pocket" or a folder) to go on from. `minutes` stops between two steps; None runs
    to the recipe's end. `report` is told what was done, and may itself raise OutOfTime.

    Raises ValueError when `output` was begun with another seed, start or recipe, or `start_from` is no pocket pipeline.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    start = None if start_from is None else _open_start(start_from)
    if vae == "keep" and (start is None or stage == "vae"):
        raise ValueError(
            "--vae keep needs --from PIPELINE to keep the VAE of, and --stage all to train the rest with it"
        )
    vae_recipe = vae_recipe or (VaeRecipe() if start is None else CONTINUED_VAE)
    text_to_image_recipe = text_to_image_recipe or TEXT_TO_IMAGE
    kontext_recipe = kontext_recipe or (TransformerRecipe() if start is None else CONTINUED)
    number_of_shards = max(text_to_image_recipe.shards, kontext_recipe.shards)
    work, shards = output / "work", output / "shards"
    work.mkdir(parents=True, exist_ok=True)
    asked = {"seed": seed, "start": None if start is None else _hash_of(start), "vae": vae}
    asked |= _named("vae", vae_recipe) | _named("text_to_image", text_to_image_recipe)
    _open(work / "begun.json", asked | _named("kontext", kontext_recipe))
    deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def progress(message: str) -> None:
        report(message)
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTime

    try:
        for path in render_split(shards, number_of_shards, seed=seed):
            progress(f"drawn {path.name}")
        for path in render_split(shards, HELD_OUT_SHARDS, seed=seed, held_out=True):
            progress(f"drawn {path.name}")
        coder = None if start is None else cast(AutoencoderTiny, start.vae)
        if vae == "train":
            coder = train_vae(
                shards,
                number_of_shards,
                work,
                vae_recipe,
                seed=seed,
                progress=progress,
                start_from=coder,
            )
        assert coder is not None  # kept of a start, or trained just now
        if stage == "vae":
            return None
        recipes = [text_to_image_recipe, kontext_recipe]
        transformer = _transformer(coder, start, shards, work, recipes, seed=seed, progress=progress)
    except OutOfTime:
        logger.info("time is over; the same command goes on from here")
        return None
    return write_pipeline(coder, transformer, start, output / "pipeline", shards, seed=seed)


def _open_start(path: str) -> KontextAdapter:
    """The pipeline to go on from, checked before anything is written."""
    start = KontextAdapter.load(path)
    if start.folder.classes["vae"] != "AutoencoderTiny":
        raise ValueError(
            f"--from {path}: needs a pocket pipeline, with an AutoencoderTiny, got a {start.folder.classes['vae']}"
        )
    return start


def _named(part: str, recipe: VaeRecipe | TransformerRecipe) -> dict[str, Any]:
    """A recipe's values by dotted names, as JSON gives them back."""
    values: dict[str, Any] = json_ready(asdict(recipe))
    return {f"{part}.{name}": value for name, value in values.items()}


def _open(note: Path, asked: dict[str, Any]) -> None:
    """Note what a work folder is begun with, or check that it is the same as before."""
    begun = json.loads(note.read_text()) if note.exists() else asked
    if begun != asked:
        changed = [f"{name}={begun.get(name)}" for name in asked if begun.get(name) != asked[name]]
        told = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if changed[3:] else "")
        raise ValueError(
            f"{note.parent.parent}: holds a build begun with {told}; go on with the same, or name another "
            "--output"
        )
    if not note.exists():
        write_atomic_json(note, asked)


def _hash_of(start: KontextAdapter) -> str:
    """SHA-256 of the transformer and VAE that a build goes on from."""
    digest = hashlib.sha256()
    for part in ("transformer", "vae"):
        for file in sorted((start.folder.path / part).glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _transformer(
    vae: AutoencoderTiny,
    start: KontextAdapter | None,
    shards: Path,
    work: Path,
    recipes: list[TransformerRecipe],
    *,
    seed: int,
    progress: Progress,
) -> FluxTransformer2DModel:
    """Encode every shard once, then train by one recipe after the other."""
    coder = (
        vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    )  # the faster layout on a CPU
    text = captions_of(start, seed=seed)
    splits = {}
    for held_out, shard_count in ((False, max(recipe.shards for recipe in recipes)), (True, HELD_OUT_SHARDS)):
        latents, prompts = [], []
        for number in range(shard_count):
            path = shard_path(shards, number, held_out=held_out)
            latents.append(encode_shard(coder, path, work / f"latents-{path.stem}.safetensors"))
            prompts.extend(load_shard(path).prompts)
            progress(f"encoded {path.stem}")
        splits[held_out] = (torch.cat(latents), prompts)
    transformer = None if start is None else cast(FluxTransformer2DModel, start.transformer)
    for recipe in recipes:
        train, held_out_pairs = (
            PairSource(*splits[held_out], text, recipe, seed) for held_out in (False, True)
        )
        transformer = train_transformer(
            train, held_out_pairs, work, recipe, seed=seed, progress=progress, start_from=transformer
        )
    assert transformer is not None  # there are two recipes
    return transformer


def captions_of(start: KontextAdapter | None, *, seed: int) -> TextTable:
    """Every caption, by the text side of this seed, or of the pipeline gone on from, which keeps its own."""
    if start is None:
        return encode_captions(seed=seed)
    captions = all_captions()
    text = start.encode_text(captions)
    return text_table(captions, text.prompt_embeds, text.pooled)


def write_pipeline(
    vae: AutoencoderTiny,
    transformer: FluxTransformer2DModel,
    start: KontextAdapter | None,
    folder: Path,
    shards: Path,
    *,
    seed: int,
) -> Path:
    """Write a diffusers folder whole or not at all: transformer in bfloat16, VAE in float16, text side in float16.

    Of a pipeline gone on from, the text side and every configuration are copied as they are.
    """
    fresh = folder.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    held_out = load_shard(shard_path(shards, 0, held_out=True))
    psnr, figure_psnr = round_trip_psnr(vae, held_out.images[:, 0], held_out.masks[:, 0])
    logger.info("VAE %.1f dB, on the figure %.1f dB", psnr, figure_psnr)
    facts: dict[str, Any] = {"image_size_px": held_out.images.shape[2], "seed": seed}  # of the text side
    transformer.to(torch.bfloat16)
    if start is None:
        pipeline = build_pipeline(vae.half(), transformer, all_captions(), seed=seed)
        pipeline.text_encoder.half()
        pipeline.text_encoder_2.half()
        pipeline.save_pretrained(fresh, safe_serialization=True)
    else:
        shutil.copytree(start.folder.path, fresh)
        facts = json.loads((fresh / "divrl.json").read_text())
        _replace_weights(fresh / "transformer", transformer)
        _replace_weights(fresh / "vae", vae.half())
    facts |= {"vae_psnr_db": round(psnr, 2), "vae_figure_psnr_db": round(figure_psnr, 2)}
    (fresh / "divrl.json").write_text(json.dumps(facts, indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(fresh, folder)
    return folder


def _replace_weights(part: Path, module: torch.nn.Module) -> None:
    """Write a module's weights over those of a diffusers part; its configuration stays as it is."""
    (file,) = part.glob("*.safetensors")
    weights = {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
    save_file(weights, file, metadata={"format": "pt"})
