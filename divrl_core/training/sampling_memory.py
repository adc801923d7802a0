"""What making pictures takes, before a model is loaded: forwards, and memory by phase."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..models.attention import kernel_name
from ..models.base_bytes import base_bytes
from ..models.encoder_trace import text_encoder_size, vae_size
from ..models.layout import NO_REFERENCE
from ..models.pipeline_config import PipelineConfig
from ..models.planned_kernels import DeviceKind
from ..models.traced_model import TraceRequest, config_key, transformer_on_meta
from ..models.transformer_trace import trace_transformer

FLOAT = 4


@dataclass(frozen=True, kw_only=True)
class SamplingMemory:
    """Bytes at once while prompts and references are encoded, and while pictures are made one at a time."""

    encode: int
    sample: int

    @property
    def peak(self) -> int:
        """The larger of the two."""
        return max(self.encode, self.sample)


def sampling_memory(
    pipeline: PipelineConfig,
    dtype: torch.dtype,
    *,
    size_px: tuple[int, int],
    layout: str,
    text_tokens: int,
    lora_numbers: int,
    device: DeviceKind,
) -> SamplingMemory:
    """Memory of making one picture of (height, width) at a time.

    lora_numbers: of the LoRA's parameters, 0 without one.
    """
    config = config_key(pipeline.parts["transformer"])
    side = max(16, round((size_px[0] * size_px[1]) ** 0.5 / 16) * 16)  # a square of that area
    vae = vae_size(pipeline, dtype, batch=1, size_px=side, is_decoding=True, device=device)
    encoding = vae_size(pipeline, dtype, batch=1, size_px=side, is_decoding=False, device=device)
    text = text_encoder_size(pipeline, dtype, text_tokens)
    token_px = 16
    tokens = (size_px[0] // token_px) * (size_px[1] // token_px) * (1 if layout == NO_REFERENCE else 2)
    trace = trace_transformer(
        TraceRequest(
            config=config,
            dtype=dtype,
            lora_rank=1,
            lora_targets="attention+ffn",
            batch=1,
            image_tokens=tokens,
            text_tokens=text_tokens,
            target_tokens=(size_px[0] // token_px) * (size_px[1] // token_px),
            device=device,
            attention=kernel_name(None, device, dtype),
        )
    )
    base = base_bytes(transformer_on_meta(config, dtype), dtype, "none").total
    held = base + FLOAT * lora_numbers + vae.weights
    return SamplingMemory(
        encode=text.weights + vae.weights + max(text.working, encoding.working),
        sample=held + max(trace.sampling, vae.working),
    )
