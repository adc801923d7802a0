"""A built pocket as a diffusers folder: the Kontext pipeline, and the text-to-image transformer beside its own."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..models.flux import FluxAdapter
from ..models.pocket_parts import AutoencoderTiny, FluxTransformer2DModel, build_pipeline
from .pairs import all_captions
from .train_vae import round_trip_psnr
from .world import load_shard, shard_path

logger = logging.getLogger("divrl")

TEXT_TO_IMAGE_PART = "transformer_text_to_image"  # a folder beside the pipeline's own transformer


@dataclass(frozen=True)
class Transformers:
    """What the transformer's phases leave: the Kontext model, and the text-to-image model that guided it."""

    kontext: FluxTransformer2DModel
    text_to_image: FluxTransformer2DModel


def write_pipeline(
    vae: AutoencoderTiny,
    models: Transformers,
    start: FluxAdapter | None,
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
    models.kontext.to(torch.bfloat16)
    models.text_to_image.to(torch.bfloat16)
    if start is None:
        pipeline = build_pipeline(vae.half(), models.kontext, all_captions(), seed=seed)
        pipeline.text_encoder.half()
        pipeline.text_encoder_2.half()
        pipeline.save_pretrained(fresh, safe_serialization=True)
        shutil.copytree(fresh / "transformer", fresh / TEXT_TO_IMAGE_PART)
    else:
        shutil.copytree(start.folder.path, fresh)
        facts = json.loads((fresh / "divrl.json").read_text())
        shutil.copytree(fresh / "transformer", fresh / TEXT_TO_IMAGE_PART, dirs_exist_ok=True)
        _replace_weights(fresh / "transformer", models.kontext)
        _replace_weights(fresh / "vae", vae.half())
    _replace_weights(fresh / TEXT_TO_IMAGE_PART, models.text_to_image)
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
