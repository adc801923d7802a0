"""What the parts beside the transformer take: text encoders, VAE, reward backbone; weights and working memory.

Weights are counted exactly. Working memory is the most that lives while the real code runs without memory behind it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel
from transformers.utils import logging as transformers_logging

from .fake_modules import as_fake, bytes_of, fake_tensors, on_meta
from .live_tensors import LiveTensors
from .pipeline_config import PipelineConfig
from .planned_kernels import DeviceKind, PlannedKernels
from .traced_model import config_key

if TYPE_CHECKING:
    from ..config import BackboneConfig, RewardConfig

CLIP_TOKENS = 77
TOKEN_AREA = 4  # latent cells in a token
_VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """A part's weights and the most that lives beside them while it works, in bytes; operations where counted."""

    weights: int
    working: int
    flops: float = 0.0


@dataclass(frozen=True, kw_only=True)
class VaeShape:
    """How a VAE cuts pictures: latent channels, and pixels for one latent cell."""

    channels: int
    downscale: int

    def tokens(self, size_px: int) -> int:
        """Tokens of a square picture. Raises ValueError when its side does not divide evenly."""
        side = self.downscale * 2
        if size_px % side:
            raise ValueError(f"model.image_size_px must be a multiple of {side}, got {size_px}")
        return (size_px // side) ** 2

    @property
    def token_width(self) -> int:
        """Numbers in a token."""
        return self.channels * TOKEN_AREA


def vae_shape(pipeline: PipelineConfig) -> VaeShape:
    """Latent channels and downscale from the VAE's configuration."""
    config = pipeline.parts["vae"]
    blocks = config.get("block_out_channels") or config["encoder_block_out_channels"]
    return VaeShape(channels=int(config["latent_channels"]), downscale=2 ** (len(blocks) - 1))


def text_encoder_size(pipeline: PipelineConfig, dtype: torch.dtype, text_tokens: int) -> PartSize:
    """CLIP and T5 in `dtype`, and one prompt going through each."""
    clip, t5 = pipeline.parts["text_encoder"], pipeline.parts["text_encoder_2"]
    return _text_encoder_size(config_key(clip), config_key(t5), dtype, text_tokens)


@lru_cache(maxsize=8)
def _text_encoder_size(clip: str, t5: str, dtype: torch.dtype, text_tokens: int) -> PartSize:
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        clip_config, t5_config = CLIPTextConfig(**json.loads(clip)), T5Config(**json.loads(t5))
        encoders = {
            on_meta(lambda: CLIPTextModel(clip_config), dtype): min(
                CLIP_TOKENS, clip_config.max_position_embeddings
            ),
            on_meta(lambda: T5EncoderModel(t5_config), dtype): text_tokens,
        }
        with fake_tensors():
            peaks = [_text_peak(as_fake(encoder), length) for encoder, length in encoders.items()]
    finally:
        transformers_logging.set_verbosity(level)
    return PartSize(weights=sum(map(bytes_of, encoders)), working=max(peaks))


def vae_size(
    pipeline: PipelineConfig,
    dtype: torch.dtype,
    *,
    batch: int,
    size_px: int,
    is_decoding: bool,
    is_tiled: bool = False,
    device: DeviceKind = "cuda",
) -> PartSize:
    """The VAE in `dtype`, decoding (or encoding) `batch` square pictures at once; operations of one."""
    one = _vae_size(
        pipeline.classes["vae"],
        config_key(pipeline.parts["vae"]),
        dtype,
        size_px,
        is_decoding,
        is_tiled,
        device,
        vae_shape(pipeline),
    )
    return replace(one, working=batch * one.working)  # everything in it has the batch's dimension


@lru_cache(maxsize=32)
def _vae_size(
    kind: str,
    config: str,
    dtype: torch.dtype,
    size_px: int,
    is_decoding: bool,
    is_tiled: bool,
    device: DeviceKind,
    shape: VaeShape,
) -> PartSize:
    settings: Mapping[str, Any] = json.loads(config)
    vae: Any = on_meta(lambda: _VAES[kind].from_config(dict(settings)), dtype)
    if is_tiled:
        vae.enable_tiling()
    with fake_tensors():
        as_fake(vae)
        side = size_px // shape.downscale
        given = (
            torch.empty(1, shape.channels, side, side, dtype=dtype)
            if is_decoding
            else torch.empty(1, 3, size_px, size_px, dtype=dtype)
        )

        def run() -> Any:
            if not is_decoding:
                return vae.encode(given)
            return (vae.decode(given).sample.float() / 2 + 0.5).clamp(0, 1)

        live = _live(vae, run, device)
    return PartSize(weights=bytes_of(vae), working=live.peak, flops=sum(live.flops.values()))


EXACT_TOO = 4 + 8  # bytes of a number of a structure: it is kept in float32, and in float64 for faint ones


def reward_size(config: RewardConfig, *, batch: int, size_px: int) -> tuple[PartSize, int]:
    """All backbones of a reward on `batch` pictures, one after the other, and the bytes of one reference's features."""
    used = [config.backbone, config.second_backbone, config.held_out_backbone]
    sizes = [backbone_size(one, batch=batch, size_px=size_px) for one in used if one.name is not None]
    whole = PartSize(
        weights=sum(size.weights for size, _ in sizes),
        working=max(size.working for size, _ in sizes),
        flops=sum(size.flops for size, _ in sizes),
    )
    return whole, sum(reference for _, reference in sizes)


def backbone_size(config: BackboneConfig, *, batch: int, size_px: int) -> tuple[PartSize, int]:
    """The reward's backbone on `batch` pictures, and the bytes of one reference's features at most: of an object that
    fills the picture, with what `nssm_cropped` needs of it.
    """
    from .features.base import ONE_AT_A_TIME

    one, reference = _backbone_size(config, size_px)
    at_once = 1 if config.name in ONE_AT_A_TIME else batch
    return replace(one, working=at_once * one.working), reference


@lru_cache(maxsize=16)
def _backbone_size(config: BackboneConfig, size_px: int) -> tuple[PartSize, int]:
    from .features.base import backbone_class

    with torch.device("meta"):
        backbone = backbone_class(config).without_weights(config)
    with fake_tensors():
        as_fake(backbone.module)
        module: nn.Module = backbone.module
        live = _live(module, lambda: backbone.extract(torch.empty(1, 3, size_px, size_px)), "cuda")
        features = backbone.extract(torch.empty(1, 3, size_px, size_px))
        cells = [features.semantic, *(visual.values for visual in features.visual)]
        channels, count = features.structure.shape[1], features.structure[0, 0].numel()
        pooled = count // backbone.settings.score.nssm_pool**2
        structures = _structure_bytes(pooled, channels) + _structure_bytes(count, channels)
        reference = structures + sum(values.nbytes for values in cells)
    return (
        PartSize(weights=bytes_of(module), working=live.peak, flops=sum(live.flops.values())),
        reference,
    )


def _structure_bytes(cells: int, channels: int) -> int:
    """Of a structure as nSSM keeps it: its cells, and their products where these are fewer (rewards/nssm.py)."""
    return EXACT_TOO * (cells * channels + (cells**2 if cells < channels else 0))


def _text_peak(encoder: nn.Module, length: int) -> int:
    ids = torch.zeros(1, length, dtype=torch.long)
    return _live(encoder, lambda: encoder(ids), "cuda").peak


def _live(module: nn.Module, run: Callable[[], Any], device: DeviceKind) -> LiveTensors:
    kernels = PlannedKernels(device, "auto")
    with torch.no_grad(), kernels, LiveTensors([*module.parameters(), *module.buffers()]) as live:
        run()
    return live
