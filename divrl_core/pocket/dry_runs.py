"""What `pocket build` and `pocket heads` would do, counted; nothing is loaded or written."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..models.features.efficientnet_lite import LITE0, weights_path
from ..models.hub import open_pipeline
from .build import BuildRecipe, check_build
from .train_heads import HeadRecipe
from .train_vae import CONTINUED_VAE, VaeRecipe


def build_lines(
    output: Path,
    *,
    start_from: str | None,
    vae: Literal["train", "keep"],
    stage: Literal["all", "vae"],
    compiled: bool,
) -> list[str]:
    """The phases and their steps. Raises ValueError or FileNotFoundError as the build itself would at its start."""
    check_build(vae, stage, has_start=start_from is not None, compiled=compiled)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file; name a folder with --output")
    if start_from is not None:
        kind = open_pipeline(start_from).classes["vae"]
        if kind != "AutoencoderTiny":
            raise ValueError(
                f"--from {start_from}: needs a pocket pipeline, with an AutoencoderTiny, got a {kind}"
            )
    recipe = BuildRecipe(vae=VaeRecipe() if start_from is None else CONTINUED_VAE)
    begun = (output / "work" / "begun.json").is_file()
    lines = [f"{'goes on in' if begun else 'begins in'} {output}, from {start_from or 'scratch'}"]
    if vae == "train":
        steps = recipe.vae.narrow_steps + recipe.vae.wide_steps
        lines.append(f"VAE: {steps} steps of {recipe.vae.batch_size} crops of {recipe.vae.crop_px} px")
    if stage == "all":
        lines += [
            f"{phase.phase}: {phase.steps} steps of {phase.batch_size} pictures, {phase.shards} shards of figures"
            for phase in recipe.transformers
        ]
    return lines


def heads_lines() -> list[str]:
    """Pairs and steps. Raises FileNotFoundError when the network's package is not installed."""
    recipe = HeadRecipe()
    weights_path(LITE0)
    return [
        f"pairs: {recipe.shards} shards of {recipe.pairs_per_shard}, drawn once and kept",
        f"heads: {recipe.steps} steps of {recipe.batch_size} pairs",
    ]
