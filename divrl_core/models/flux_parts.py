"""A FLUX pipeline's parts, loaded one by one as they are needed: encoders, VAE, transformer, schedule, position ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from .attention import kernel_name
from .base_options import BaseOptions
from .conditioning import TextEmbeddings
from .hub import PipelineFolder
from .latents import LatentCodec
from .layout import grid_ids, reference_ids
from .shift import ScheduleShift
from .text import TextEncoders
from .transformer_load import load_transformer, transformer_config


class FluxParts:
    """The parts behind `FluxAdapter`, their own weights frozen.

    The transformer is read at first use, so that prompts can be encoded and the text encoders freed before.
    """

    def __init__(
        self,
        folder: PipelineFolder,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_text_tokens: int | None = None,
        attention: str | None = None,
        layout: str | None = None,
        base: BaseOptions | None = None,
        vae_tiling: bool = False,
    ) -> None:
        self.folder, self.dtype, self.device = folder, dtype, device
        self.layout = layout or folder.layout
        reference_ids(self.layout, (0, 0), (0, 0))  # refuses an unknown layout
        self.attention = kernel_name(attention, device.type, dtype)
        self.base, self._vae_tiling = base or BaseOptions(), vae_tiling
        self.has_guidance: bool = transformer_config(folder).get("guidance_embeds", False)
        self._shift = ScheduleShift.read(folder)
        self._text = TextEncoders(folder, dtype=dtype, device=device, max_tokens=max_text_tokens)

    # Parts and numbers

    @cached_property
    def transformer(self) -> nn.Module:
        """The FluxTransformer2DModel, frozen. Assign a wrapped one (accelerate's) and it is used instead."""
        return load_transformer(self.folder, self.base, dtype=self.dtype, device=self.device)

    @cached_property
    def _codec(self) -> LatentCodec:
        return LatentCodec(self.folder, dtype=self.dtype, device=self.device, tiling=self._vae_tiling)

    @property
    def vae(self) -> nn.Module:
        """The AutoencoderKL or AutoencoderTiny, frozen."""
        vae: nn.Module = self._codec.vae
        return vae

    @property
    def default_image_size_px(self) -> int:
        """Side of the square pictures the model is made for: pocket 128, a full Kontext 512 (in training)."""
        return self.folder.image_size_px

    @property
    def max_text_tokens(self) -> int:
        """Number L of T5 tokens that every prompt is padded or cut to."""
        return self._text.max_tokens

    def token_count(self, height: int, width: int) -> int:
        """Tokens N of a picture of that size in pixels."""
        rows, columns = self._codec.grid(height, width)
        return rows * columns

    def latent_shape(self, height: int, width: int) -> tuple[int, int]:
        """(N, C) of a picture's packed latent: (height/16 x width/16, 64) for FLUX."""
        return self.token_count(height, width), self._codec.channels * 4

    def target_ids(self, height: int, width: int) -> Tensor:
        """Position ids (N, 3) of the target's tokens, float32."""
        return grid_ids(*self._codec.grid(height, width), device=self.device)

    def reference_ids(self, height: int, width: int, *, target: tuple[int, int] | None = None) -> Tensor:
        """Position ids (M, 3) of a reference's tokens in the adapter's layout.

        `target` is the (height, width) of the picture to be made; None: equal panels, the reference's own size.
        """
        grid = self._codec.grid(height, width)
        beside = grid if target is None else self._codec.grid(*target)
        return reference_ids(self.layout, grid, beside).to(self.device)

    def sigmas(self, steps: int, height: int, width: int) -> Tensor:
        """Times of a sampling run for a target of that size, float64 (steps + 1,), from 1 to 0."""
        return self._shift.sigmas(steps, self.token_count(height, width))

    def schedule_mu(self, height: int, width: int) -> float:
        """Shift mu of the sampling schedule for a target of that size (flow/schedule.py)."""
        return self._shift.mu(self.token_count(height, width))

    # Encoding and decoding

    def encode_text(
        self, prompts: Sequence[str], *, micro_batch: int = 16, warns: bool = True
    ) -> TextEmbeddings:
        """Encode prompts with CLIP and T5, which are loaded if they are not in memory.

        `warns`: say in the log how many are cut; a caller of many calls says it once by `warn_of_cut_prompts`.
        """
        return self._text.encode(prompts, micro_batch=micro_batch, warns=warns)

    def warn_of_cut_prompts(self, prompts: Sequence[str]) -> None:
        """Say in the log how many prompts are longer than `max_text_tokens`; nothing when none is."""
        if prompts:
            self._text.warn_of_cut_prompts(prompts)

    def encode_images(self, images: Tensor, *, micro_batch: int = 8) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] -> clean normalised tokens (B, N, C) in the model's dtype."""
        return self._codec.encode(images, micro_batch=micro_batch)

    def decode(self, tokens: Tensor, height: int, width: int, *, micro_batch: int = 8) -> Tensor:
        """Clean tokens (B, N, C) -> pictures (B, 3, height, width), float32 in [0, 1]."""
        return self._codec.decode(tokens, height, width, micro_batch=micro_batch)

    def drop_encoders(self) -> None:
        """Free the text encoders' memory. Encoding another prompt would load them again."""
        self._text.drop()

    def drop_vae(self) -> None:
        """Free the VAE's memory; the next encoding or decoding loads it again."""
        if "_codec" in self.__dict__:
            self._codec.drop()
