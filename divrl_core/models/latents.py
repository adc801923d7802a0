"""Pictures to clean latent tokens and back: FLUX's VAE (or the pocket's tiny one), normalised and packed."""

from __future__ import annotations

import gc
import inspect
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

from .components import load_module
from .hub import PipelineFolder
from .layout import pack, unpack

_KINDS: dict[str, type[AutoencoderKL] | type[AutoencoderTiny]] = {
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}


class LatentCodec:
    """Normalised latents are ``(z - shift_factor) * scaling_factor``, z the VAE's mode.

    tiling: pictures beyond the VAE's tile (512 px, or its sample_size) in overlapping tiles that are blended, which the
    VAE does itself; smaller pictures come out as ever.
    """

    def __init__(
        self, folder: PipelineFolder, *, dtype: torch.dtype, device: torch.device, tiling: bool = False
    ) -> None:
        self._folder, self._dtype, self._device, self._tiling = folder, dtype, device, tiling
        self._kind = _KINDS[folder.classes["vae"]]
        path = folder.part("vae")
        try:
            config: dict[str, Any] = self._kind.load_config(str(path), local_files_only=True)
        except (OSError, ValueError) as error:
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{path}: could not be loaded: {first_line}") from error
        config = {**_defaults(self._kind), **config}
        self._scaling_factor: float = config["scaling_factor"]
        self._shift_factor: float = config.get("shift_factor") or 0.0
        self.channels: int = config["latent_channels"]
        blocks = config.get("block_out_channels") or config["encoder_block_out_channels"]
        self.downscale: int = 2 ** (len(blocks) - 1)

    @cached_property
    def vae(self) -> Any:
        """The autoencoder, loaded when first needed."""
        vae = load_module(self._folder, "vae", self._kind, dtype=self._dtype, device=self._device)
        return vae.to(memory_format=torch.channels_last)  # a quarter faster on a CPU

    def drop(self) -> None:
        """Free the autoencoder; it is loaded again when needed."""
        if self.__dict__.pop("vae", None) is not None:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    @property
    def token_size_px(self) -> int:
        """Side of the square of pixels that one token stands for: 16 for FLUX."""
        return self.downscale * 2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of tokens of a picture. Raises ValueError when a side does not divide evenly."""
        size = self.token_size_px
        if height < size or width < size or height % size or width % size:
            raise ValueError(
                f"picture size must be a multiple of {size} px on both sides, "
                f"got {height} x {width} (height x width)"
            )
        return height // size, width // size

    @torch.no_grad()
    def encode(self, images: Tensor, *, micro_batch: int = 8) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> clean tokens (B, N, C) in the model's dtype.

        Raises ValueError when the shape or the size does not fit, or a value lies outside [0, 1].
        """
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"encode_images: images must be (B, 3, H, W), got {tuple(images.shape)}")
        self.grid(images.shape[2], images.shape[3])
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"encode_images: images must lie in [0, 1], got values from {low:.4g} to {high:.4g}"
            )
        return torch.cat([self._encode(part) for part in torch.split(images, micro_batch)])

    def _encode(self, images: Tensor) -> Tensor:
        # AutoencoderTiny's tiled encoder makes 4 channels, whatever the model has; it is small enough without.
        self.vae.use_tiling = self._tiling and self._kind is not AutoencoderTiny
        output = self.vae.encode((images.to(self._device) * 2 - 1).to(self._dtype))
        z = output.latent_dist.mode() if hasattr(output, "latent_dist") else output.latents
        return pack((z - self._shift_factor) * self._scaling_factor).to(self._dtype)

    @torch.no_grad()
    def decode(self, tokens: Tensor, height: int, width: int, *, micro_batch: int = 8) -> Tensor:
        """Clean tokens (B, N, C) -> pictures (B, 3, height, width), float32 in [0, 1].

        Raises ValueError when the number of tokens is not that of the size.
        """
        rows, columns = self.grid(height, width)
        if tokens.ndim != 3 or tuple(tokens.shape[1:]) != (rows * columns, self.channels * 4):
            raise ValueError(
                f"decode: tokens of a {height} x {width} picture are "
                f"(B, {rows * columns}, {self.channels * 4}), got {tuple(tokens.shape)}"
            )
        return torch.cat([self._decode(part, rows, columns) for part in torch.split(tokens, micro_batch)])

    def _decode(self, tokens: Tensor, rows: int, columns: int) -> Tensor:
        latents = unpack(tokens.to(self._device, torch.float32), rows, columns)
        z = latents / self._scaling_factor + self._shift_factor
        self.vae.use_tiling = self._tiling
        images: Tensor = self.vae.decode(z.to(self._dtype)).sample
        return (images.float() / 2 + 0.5).clamp(0, 1)


def _defaults(kind: type) -> dict[str, Any]:
    """What a class takes for settings that a config leaves out."""
    parameters = inspect.signature(kind.__init__).parameters.values()  # type: ignore[misc]
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
