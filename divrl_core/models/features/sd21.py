"""Stable Diffusion 2.1 as far as features of pictures need it: its networks' configurations and the empty prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ..components import load_module, quiet
from ..hub import PipelineFolder, read_json
from ..token_ids import token_ids
from .diffusion_taps import missing_taps

PUBLISHED_UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
PUBLISHED_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "sample_size": 768,
}
PUBLISHED_TEXT_TOKENS = 77


def build_unet(config: dict[str, Any], where: str) -> Any:
    """The UNet without weights. Raises ValueError when the configuration is of another one, without the taps."""
    unet = _build(UNet2DConditionModel, config, where)
    missing = missing_taps(unet)
    if missing:
        raise ValueError(f"{where}: this UNet has no tap {missing[0]}; Stable Diffusion 2.1 is needed")
    return unet


def build_encoder(config: dict[str, Any], where: str) -> Any:
    """The VAE without weights and without the half that decodes."""
    vae = _build(AutoencoderKL, config, where)
    del vae.decoder, vae.post_quant_conv
    return vae


def read_config(base: Path, part: str) -> dict[str, Any]:
    """The configuration of a part of the folder."""
    return read_json(base / part / "config.json")


@torch.no_grad()
def empty_prompt(base: Path) -> Tensor:
    """The embedding of the empty prompt as the pipeline makes it, (1, 77, 1024) in float32.

    The text encoder is read for this alone, on the CPU, and freed afterwards.
    """
    tokenizer = CLIPTokenizer.from_pretrained(str(base / "tokenizer"), local_files_only=True)
    folder = PipelineFolder(path=base, classes={}, image_size_px=PUBLISHED_UNET["sample_size"] * 8)
    encoder = load_module(
        folder, "text_encoder", CLIPTextModel, dtype=torch.float32, device=torch.device("cpu")
    )
    prompt: Tensor = encoder(token_ids(tokenizer, [""], tokenizer.model_max_length)).last_hidden_state
    return prompt.clone()


def _build(kind: Any, config: dict[str, Any], where: str) -> Any:
    with quiet():
        try:
            return kind.from_config(config)
        except (TypeError, ValueError, IndexError, KeyError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{where}: no {kind.__name__} can be made of it: {first_line}") from error
