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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from ..models.flux import FluxAdapter
from ..models.pocket_parts import AutoencoderTiny, FluxTransformer2DModel
from ..training.files import json_ready, write_atomic_json
from .pairs import (
    GUIDANCE,
    KONTEXT,
    TEXT_TO_IMAGE,
    PairSource,
    TextTable,
    TransformerRecipe,
    all_captions,
    encode_captions,
    encode_shard,
    text_table,
)
from .pipeline_writer import TEXT_TO_IMAGE_PART, Transformers, write_pipeline
from .train_transformer import Progress, train_transformer
from .train_vae import CONTINUED_VAE, VaeRecipe, train_vae
from .world import load_shard, render_split, shard_path

logger = logging.getLogger("divrl")

HELD_OUT_SHARDS = 1


@dataclass(frozen=True, kw_only=True)
class BuildRecipe:
    """How every part is trained."""

    vae: VaeRecipe = VaeRecipe()
    text_to_image: TransformerRecipe = TEXT_TO_IMAGE
    kontext: TransformerRecipe = KONTEXT
    guidance: TransformerRecipe = GUIDANCE

    @property
    def transformers(self) -> tuple[TransformerRecipe, ...]:
        """The transformer's phases, in their order."""
        return (self.text_to_image, self.kontext, self.guidance)

    def with_speed(self, mixed_precision: Literal["no", "bf16"], compiled: bool) -> BuildRecipe:
        """The same with products in bfloat16, or compiled."""
        vae = replace(self.vae, mixed_precision=mixed_precision)
        phases = [
            replace(recipe, mixed_precision=mixed_precision, compile=compiled) for recipe in self.transformers
        ]
        return BuildRecipe(vae=vae, text_to_image=phases[0], kontext=phases[1], guidance=phases[2])


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
    recipe: BuildRecipe | None = None,
    mixed_precision: Literal["no", "bf16"] = "no",
    compiled: bool = False,
    report: Progress = logger.info,
) -> Path | None:
    """Run the stages that are not finished; returns the pipeline's folder once it is whole.

    `start_from` is a pocket pipeline ("pocket" or a folder) to go on from. `minutes` stops between two steps; None runs
    to the recipe's end. `mixed_precision` and `compiled` buy speed and belong to the recipe, for they round otherwise.
    `report` is told what was done, and may itself raise OutOfTime.

    Raises ValueError when `output` was begun with another seed, start or recipe, `start_from` is no pocket pipeline, or
    there is no compiler to compile with.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    start = None if start_from is None else _open_start(start_from)
    check_build(vae, stage, has_start=start is not None, compiled=compiled)
    recipe = recipe or BuildRecipe(vae=VaeRecipe() if start is None else CONTINUED_VAE)
    recipe = recipe.with_speed(mixed_precision, compiled)
    number_of_shards = max(phase.shards for phase in recipe.transformers)
    work, shards = output / "work", output / "shards"
    work.mkdir(parents=True, exist_ok=True)
    asked = {"seed": seed, "start": None if start is None else _hash_of(start), "vae": vae}
    asked |= _named("vae", recipe.vae)
    for phase in recipe.transformers:
        asked |= _named(phase.phase, phase)
    _open(work / "begun.json", asked)
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
                recipe.vae,
                seed=seed,
                progress=progress,
                start_from=coder,
            )
        assert coder is not None  # kept of a start, or trained just now
        if stage == "vae":
            return None
        models = _transformers(coder, start, shards, work, recipe, seed=seed, progress=progress)
    except OutOfTime:
        logger.info("time is over; the same command goes on from here")
        return None
    return write_pipeline(coder, models, start, output / "pipeline", shards, seed=seed)


def check_build(
    vae: Literal["train", "keep"], stage: Literal["all", "vae"], *, has_start: bool, compiled: bool
) -> None:
    """Raises ValueError for options that contradict each other, and where there is no compiler to compile with."""
    if vae == "keep" and (not has_start or stage == "vae"):
        raise ValueError(
            "--vae keep needs --from PIPELINE to keep the VAE of, and --stage all to train the rest with it"
        )
    if compiled and not any(
        shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "cl") if name
    ):
        raise ValueError(
            "--compile needs a C++ compiler (g++, clang++ or cl), found none; install one or leave it out"
        )


def _open_start(path: str) -> FluxAdapter:
    """The pipeline to go on from, checked before anything is written."""
    start = FluxAdapter.load(path)
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


def _hash_of(start: FluxAdapter) -> str:
    """SHA-256 of the transformer and VAE that a build goes on from."""
    digest = hashlib.sha256()
    for part in ("transformer", "vae"):
        for file in sorted((start.folder.path / part).glob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def _transformers(
    vae: AutoencoderTiny,
    start: FluxAdapter | None,
    shards: Path,
    work: Path,
    recipe: BuildRecipe,
    *,
    seed: int,
    progress: Progress,
) -> Transformers:
    """Encode every shard once, then train phase by phase.

    Text to image begins from scratch or from the start's own, Kontext from the start's transformer, or from text to
    image where there is no start.
    """
    coder = (
        vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    )  # the faster layout on a CPU
    text = captions_of(start, seed=seed)
    splits = {}
    number_of_shards = max(phase.shards for phase in recipe.transformers)
    for held_out, shard_count in ((False, number_of_shards), (True, HELD_OUT_SHARDS)):
        latents, prompts = [], []
        for number in range(shard_count):
            path = shard_path(shards, number, held_out=held_out)
            latents.append(encode_shard(coder, path, work / f"latents-{path.stem}.safetensors"))
            prompts.extend(load_shard(path).prompts)
            progress(f"encoded {path.stem}")
        splits[held_out] = (torch.cat(latents), prompts)

    def train(
        phase: TransformerRecipe,
        begin: FluxTransformer2DModel | None,
        guide: FluxTransformer2DModel | None = None,
    ) -> FluxTransformer2DModel:
        pairs, held_out_pairs = (
            PairSource(*splits[held_out], text, phase, seed) for held_out in (False, True)
        )
        return train_transformer(
            pairs,
            held_out_pairs,
            work,
            phase,
            seed=seed,
            progress=progress,
            start_from=begin,
            text_to_image=guide,
        )

    begin = None if start is None else cast(FluxTransformer2DModel, start.transformer)
    text_to_image = train(recipe.text_to_image, begin if start is None else _text_to_image_of(start))
    kontext = train(recipe.kontext, text_to_image if begin is None else begin)
    return Transformers(train(recipe.guidance, kontext, text_to_image), text_to_image)


def _text_to_image_of(start: FluxAdapter) -> FluxTransformer2DModel:
    """The start's text-to-image transformer; its Kontext transformer where it has none."""
    part = start.folder.path / TEXT_TO_IMAGE_PART
    if not part.is_dir():
        return cast(FluxTransformer2DModel, start.transformer)
    return FluxTransformer2DModel.from_pretrained(part, torch_dtype=torch.float32)


def captions_of(start: FluxAdapter | None, *, seed: int) -> TextTable:
    """Every caption, by the text side of this seed, or of the pipeline gone on from, which keeps its own."""
    if start is None:
        return encode_captions(seed=seed)
    captions = all_captions()
    text = start.encode_text(captions)
    return text_table(captions, text.prompt_embeds, text.pooled)
