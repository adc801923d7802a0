"""FLUX.1-Kontext and FLUX.1-dev behind one small face: tensors in, tensors out.

The one place that knows how the model wants its inputs: target tokens first, then the reference's with the position
ids of its layout (layout.py); guidance as an embedding; times as FluxTransformer2DModel counts them. Above this file a
time is `t` in [0, 1] (flow/path.py), a picture (B, 3, H, W) in [0, 1], a latent a list of tokens (B, N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from ..flow.sde import ode_step
from .attention import attention_kernel, checkpoint_blocks, kernel_name
from .components import load_module
from .conditioning import Conditioning, TextEmbeddings
from .flux_inputs import check_batch, model_time
from .hub import PipelineFolder, open_pipeline
from .latents import LatentCodec
from .layout import NO_REFERENCE, Canvas, canvas, grid_ids, reference_ids, text_ids
from .shift import ScheduleShift
from .text import TextEncoders

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FluxAdapter:
    """A FLUX pipeline, loaded part by part as parts are needed, its own weights frozen.

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
    ) -> None:
        self.folder, self.dtype, self.device = folder, dtype, device
        self.layout = layout or folder.layout
        reference_ids(self.layout, (0, 0), (0, 0))  # refuses an unknown layout
        self.attention = kernel_name(attention, device)
        self.has_guidance: bool = _transformer_config(folder).get("guidance_embeds", False)
        self._shift = ScheduleShift.read(folder)
        self._text = TextEncoders(folder, dtype=dtype, device=device, max_tokens=max_text_tokens)

    @classmethod
    def load(
        cls,
        path: str = "pocket",
        *,
        dtype: torch.dtype | str = "float32",
        device: torch.device | str = "cpu",
        revision: str | None = None,
        max_text_tokens: int | None = None,
        attention: str | None = None,
        layout: str | None = None,
    ) -> FluxAdapter:
        """Open a pipeline; its files are checked now, its weights are read when first used.

        Args:
            path: "pocket" (the embedded model), "pocket-text-to-image", a diffusers folder, or a hub id.
            dtype: of weights and latents: float32, bfloat16 or float16.
            device: where the parts are put.
            revision: branch, tag or commit of a hub id.
            max_text_tokens: T5 tokens a prompt has, 1..512; None: the tokenizer's own length, at most 128.
            attention: kernel of scaled-dot-product attention: auto, math, flash, efficient or cudnn; one
                for rollout, training and recomputation. None: math on the CPU (trains faster), else auto.
            layout: where the reference lies: kontext, width, diagonal, or none (left out). None: the pipeline's
                own, kontext for a FluxKontextPipeline, width for a text-to-image FluxPipeline.

        Raises FileNotFoundError or ValueError, in one line, when there is no such pipeline or it is damaged.
        """
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
            dtype = DTYPES[dtype]
        return cls(
            open_pipeline(path, revision),
            dtype=dtype,
            device=torch.device(device),
            max_text_tokens=max_text_tokens,
            attention=attention,
            layout=layout,
        )

    # Parts and numbers

    @cached_property
    def transformer(self) -> nn.Module:
        """The FluxTransformer2DModel, frozen. Assign a wrapped one (accelerate's) and it is used instead."""
        transformer: nn.Module = load_module(
            self.folder, "transformer", FluxTransformer2DModel, dtype=self.dtype, device=self.device
        )
        return transformer

    @cached_property
    def _codec(self) -> LatentCodec:
        return LatentCodec(self.folder, dtype=self.dtype, device=self.device)

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

    def conditioning(
        self,
        text: TextEmbeddings,
        reference_tokens: Tensor,
        *,
        height: int,
        width: int,
        target: tuple[int, int] | None = None,
    ) -> Conditioning:
        """Put together what was encoded before: B prompts, and B references of that size in pixels.

        `target` is the (height, width) of the pictures to be made; None: the references' own size. In the layout
        "none" the references are left out.

        Raises ValueError when the two do not belong together.
        """
        expected = (len(text), *self.latent_shape(height, width))
        if tuple(reference_tokens.shape) != expected:
            raise ValueError(
                f"conditioning: {len(text)} prompts need reference tokens of shape {expected} "
                f"({height} x {width} px each), got {tuple(reference_tokens.shape)}"
            )
        return Conditioning(
            prompt_embeds=text.prompt_embeds,
            pooled=text.pooled,
            text_ids=text_ids(text.prompt_embeds.shape[1], device=self.device),
            reference_tokens=reference_tokens[:, :0] if self.layout == NO_REFERENCE else reference_tokens,
            reference_ids=self.reference_ids(height, width, target=target),
        )

    def encode(
        self, prompts: Sequence[str], references: Tensor, *, target: tuple[int, int] | None = None
    ) -> Conditioning:
        """Encode prompts and their references, (B, 3, H, W) in [0, 1], one to one; `target` as in `conditioning`."""
        tokens = self.encode_images(references)
        height, width = references.shape[2:]
        return self.conditioning(self.encode_text(prompts), tokens, height=height, width=width, target=target)

    def drop_encoders(self) -> None:
        """Free the text encoders' memory. Encoding another prompt would load them again."""
        self._text.drop()

    def drop_vae(self) -> None:
        """Free the VAE's memory; the next encoding or decoding loads it again."""
        if "_codec" in self.__dict__:
            self._codec.drop()

    # The model

    def velocity(
        self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning, target_ids: Tensor, guidance: float
    ) -> Tensor:
        """The model's velocity ``v = eps - x_0`` at x_t, the one function for rollout and training.

        Runs under the caller's autocast and gradient settings. Equal inputs in an equal batch shape give
        equal bits; another batch size may move float32 outputs by 1e-6.

        Args:
            x_t: noisy target tokens (B, N, C), any dtype (rounded to the model's).
            t: time in [0, 1], 1 is noise; one number, or one for each sample (B,).
            conditioning: of the same B samples.
            target_ids: (N, 3), from `target_ids(height, width)`.
            guidance: embedded guidance scale (2.5 in training); a model without the embedding ignores it.

        Returns:
            (B, N, C), float32: the target's part of the prediction alone.
        """
        _, prediction = self.canvas_velocity(x_t, t, conditioning, target_ids, guidance)
        return prediction[:, : x_t.shape[1]]  # a mask would make a GPU wait for its count

    def canvas_velocity(
        self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning, target_ids: Tensor, guidance: float
    ) -> tuple[Canvas, Tensor]:
        """The canvas of target and reference tokens, and what the model says of all of it, (B, N + M, C), float32.

        Arguments as in `velocity`. The reference's tokens go in clean and come back as they were: the canvas holds
        them bit for bit.
        """
        check_batch(x_t, conditioning, target_ids)
        whole = canvas(
            x_t.to(self.dtype),
            target_ids,
            conditioning.reference_tokens.to(self.dtype),
            conditioning.reference_ids,
        )
        with attention_kernel(self.attention):
            prediction: Tensor = self.transformer(
                hidden_states=whole.tokens,
                timestep=model_time(t, x_t),
                guidance=self._guidance(guidance, x_t),
                pooled_projections=conditioning.pooled.to(self.dtype),
                encoder_hidden_states=conditioning.prompt_embeds.to(self.dtype),
                txt_ids=conditioning.text_ids,
                img_ids=whole.ids,
                return_dict=False,
            )[0]
        return whole, prediction.float()

    @torch.no_grad()
    def sample(
        self,
        conditioning: Conditioning,
        noise: Tensor,
        *,
        height: int,
        width: int,
        steps: int,
        guidance: float,
        micro_batch: int = 8,
    ) -> Tensor:
        """Clean tokens (B, N, C), float32, from noise tokens (B, N, C) by plain Euler steps (deterministic).

        The same as diffusers' FluxKontextPipeline called with `max_area=width * height, _auto_resize=False`.

        Raises ValueError when noise, conditioning and size do not belong together.
        """
        if tuple(noise.shape) != (len(conditioning), *self.latent_shape(height, width)):
            raise ValueError(
                f"sample: noise for {len(conditioning)} samples of {height} x {width} px must be "
                f"{(len(conditioning), *self.latent_shape(height, width))}, got {tuple(noise.shape)}"
            )
        times = self.sigmas(steps, height, width).tolist()
        ids = self.target_ids(height, width)
        finished = []
        for start in range(0, len(noise), micro_batch):
            part = slice(start, start + micro_batch)
            given = conditioning.select(part).to(self.device)
            x_t = noise[part].to(self.device, torch.float32)
            for t, t_next in pairwise(times):
                x_t = ode_step(x_t, self.velocity(x_t, t, given, ids, guidance), t, t_next)
            finished.append(x_t)
        return torch.cat(finished)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block in the backward pass: less memory, more time, the same gradients."""
        checkpoint_blocks(self.transformer, self.attention)

    def _guidance(self, guidance: float, x_t: Tensor) -> Tensor | None:
        if not self.has_guidance:
            return None
        return torch.full((len(x_t),), guidance, dtype=torch.float32, device=x_t.device)


def _transformer_config(folder: PipelineFolder) -> dict[str, Any]:
    path = folder.part("transformer")
    try:
        config: dict[str, Any] = FluxTransformer2DModel.load_config(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: could not be loaded: {first_line}") from error
    return config
