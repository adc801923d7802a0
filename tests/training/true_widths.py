"""A FLUX.1-Kontext pipeline with the published widths, one double and one single block, and small encoders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxKontextPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from divrl_core.models.pocket_parts import build_clip, build_scheduler, build_t5
from tests.models.small_kl import small_kl

SENTENCES = ["a toy fox on a blue floor", "a toy robot with red arms"]
PATTERN, SCALE = 1 << 20, 2.0**-12


def build_true_widths(folder: Path) -> Path:
    """Write the pipeline, its 545 million weights in bfloat16: small numbers that fp8 with a scale holds exactly."""
    folder.mkdir()
    transformer = _transformer()
    with torch.random.fork_rng():
        clip_tokenizer, clip = _clip()
        t5_tokenizer, t5 = _t5()
        pipeline = FluxKontextPipeline(
            scheduler=build_scheduler(),
            vae=_vae(),
            text_encoder=clip,
            tokenizer=clip_tokenizer,
            text_encoder_2=t5,
            tokenizer_2=t5_tokenizer,
            transformer=transformer,
        )
    pipeline.save_pretrained(folder)
    (folder / "divrl.json").write_text(json.dumps({"image_size_px": 64}))
    return folder


def _transformer() -> FluxTransformer2DModel:
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            pooled_projection_dim=768,
            guidance_embeds=True,
        ).to(torch.bfloat16)
    transformer = transformer.to_empty(device="cpu")
    numbers = torch.randn(PATTERN, generator=torch.Generator().manual_seed(0)) * 0.02
    numbers = ((numbers / SCALE).to(torch.float8_e4m3fn).float() * SCALE).bfloat16()
    for place, (name, parameter) in enumerate(transformer.named_parameters()):
        _fill(parameter, numbers.roll(977 * place), is_norm="norm_" in name and parameter.ndim == 1)
    return transformer.eval()


def _fill(parameter: nn.Parameter, numbers: Tensor, *, is_norm: bool) -> None:
    """The same numbers over and over: half a billion random ones would take seconds."""
    flat = parameter.data.view(-1)
    if is_norm:
        flat.fill_(1.0)
        return
    for start in range(0, len(flat), PATTERN):
        part = flat[start : start + PATTERN]
        part.copy_(numbers[: len(part)])


def _vae() -> AutoencoderKL:
    vae = small_kl(seed=1)
    with (
        torch.no_grad()
    ):  # an untrained one paints nearly one grey, of which bfloat16 leaves no difference to reward
        vae.decoder.conv_out.weight.mul_(20)
    return vae


def _clip() -> tuple[object, CLIPTextModel]:
    tokenizer, small = build_clip(SENTENCES, seed=2)
    settings = small.config.to_dict() | {
        "hidden_size": 768,
        "intermediate_size": 64,
        "projection_dim": 768,
        "num_attention_heads": 12,
    }
    return tokenizer, CLIPTextModel(CLIPTextConfig(**settings)).eval()


def _t5() -> tuple[object, T5EncoderModel]:
    tokenizer, small = build_t5(SENTENCES, seed=2)
    settings = small.config.to_dict() | {"d_model": 4096, "d_kv": 32, "d_ff": 64, "num_heads": 2}
    return tokenizer, T5EncoderModel(T5Config(**settings)).eval()
