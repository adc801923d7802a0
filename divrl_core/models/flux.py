"""FLUX.1-Kontext and FLUX.1-dev behind one small face: tensors in, tensors out.

The one place that knows how the model wants its inputs: target tokens first, then the reference's with the position
ids of its layout (layout.py); guidance as an embedding; times as FluxTransformer2DModel counts them. Above this file a
time is `t` in [0, 1] (flow/path.py), a picture (B, 3, H, W) in [0, 1], a latent a list of tokens (B, N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..flow.sde import ode_step
from .attention import attention_kernel, checkpoint_blocks
from .base_options import BaseOptions
from .conditioning import Conditioning, TextEmbeddings
from .flux_inputs import check_batch, model_time
from .flux_parts import FluxParts
from .hub import open_pipeline
from .last_block import answer_for
from .layout import NO_REFERENCE, Canvas, canvas, text_ids
from .single_file import check_single_file
from .transformer_load import transformer_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FluxAdapter(FluxParts):
    """A FLUX pipeline, loaded part by part as parts are needed (flux_parts.py), its own weights frozen."""

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
        transformer_file: Path | str | None = None,
        quantization: str = "none",
        offload_blocks: int = 0,
        compile: bool = False,
        vae_tiling: bool = False,
        is_sharded: bool = False,
    ) -> FluxAdapter:
        """Open a pipeline; its files are checked now, its weights are read when first used.

        Args:
            path: "pocket" (the embedded model), "pocket-text-to-image", a diffusers folder, or a hub id.
            dtype: of weights and latents: float32, bfloat16 or float16.
            device: where the parts are put.
            revision: branch, tag or commit of a hub id.
            max_text_tokens: T5 tokens a prompt has, 1..512; None: the tokenizer's own length, at most 128.
            attention: kernel of scaled-dot-product attention: auto, math, flash, efficient or cudnn; one
                for rollout, training and recomputation. None: auto, or math for bfloat16 on the CPU.
            layout: where the reference lies: kontext, width, diagonal, or none (left out). None: the pipeline's
                own, kontext for a FluxKontextPipeline, width for a text-to-image FluxPipeline.
            transformer_file: one .safetensors or .gguf file with the transformer's weights, in place of the pipeline's.
            quantization: how the frozen base is held: none, fp8, int8, nf4 or torchao_int8 (quantized.py).
            offload_blocks: so many of the last blocks keep their weights in host memory (offload.py).
            compile: compile each block when it is first called; results are then near, not equal.
            vae_tiling: encode and decode large pictures tile by tile.
            is_sharded: read the transformer into host memory, to be spread over processes (sharding.py).

        Raises FileNotFoundError, ValueError or ImportError, in one line, when there is no such pipeline, it is damaged,
        or an option cannot be had.
        """
        if isinstance(dtype, str):
            if dtype not in DTYPES:
                raise ValueError(f"model.dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
            dtype = DTYPES[dtype]
        file = None if transformer_file is None else Path(transformer_file).expanduser()
        base = BaseOptions(
            transformer_file=file,
            quantization=quantization,
            offload_blocks=offload_blocks,
            compile=compile,
            is_sharded=is_sharded,
        )
        folder = open_pipeline(path, revision, transformer_file=file)
        if file is not None:
            check_single_file(file, transformer_config(folder))
        return cls(
            folder,
            dtype=dtype,
            device=torch.device(device),
            max_text_tokens=max_text_tokens,
            attention=attention,
            layout=layout,
            base=base,
            vae_tiling=vae_tiling,
        )

    # What the model is given

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
        check_batch(x_t, conditioning, target_ids)
        answer_for(self.transformer, x_t.shape[1])
        _, prediction = self._predict(x_t, t, conditioning, target_ids, guidance)
        return prediction[:, : x_t.shape[1]]  # a mask would make a GPU wait for its count

    def canvas_velocity(
        self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning, target_ids: Tensor, guidance: float
    ) -> tuple[Canvas, Tensor]:
        """The canvas of target and reference tokens, and what the model says of all of it, (B, N + M, C), float32.

        Arguments as in `velocity`. The reference's tokens go in clean and come back as they were: the canvas holds
        them bit for bit.
        """
        check_batch(x_t, conditioning, target_ids)
        answer_for(self.transformer, None)
        return self._predict(x_t, t, conditioning, target_ids, guidance)

    def _predict(
        self, x_t: Tensor, t: float | Tensor, conditioning: Conditioning, target_ids: Tensor, guidance: float
    ) -> tuple[Canvas, Tensor]:
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
