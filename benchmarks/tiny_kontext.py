"""The tiny Kontext that benchmarks/{grpo,growth}.py run: real diffusers classes, FLUX's proportions, random weights.

Width 128 (one head), 2 double and 4 single blocks, a VAE of 16 channels, a T5 of one layer that takes up to 512 tokens.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from divrl_core.config import LoraConfig
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, load_lora_state, lora_state
from divrl_core.models.pocket_parts import build_pipeline, build_transformer, build_vae
from divrl_core.training.policy import Policy
from divrl_core.training.references import PromptPair, Reference

SIZE_PX = 128
TEXT_TOKENS = 512
GUIDANCE = 2.5
PROMPTS = ("a toy fox with a striped body, seen from its left side on a blue floor",)
PAIR = PromptPair("fox#0", "fox", PROMPTS[0])


@dataclass(frozen=True)
class NoiseReferences:
    """Blurred noise in colour, a picture for each id; the middle is the object."""

    pairs: tuple[PromptPair, ...] = (PAIR,)
    mask_source: str = "files"

    def load(self, reference_id: str, size_px: int) -> Reference:
        """The picture at that size."""
        generator = torch.Generator().manual_seed(int.from_bytes(reference_id.encode(), "big"))
        coarse = torch.rand(1, 3, 8, 8, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bicubic").clamp(0, 1)[0]
        mask = torch.zeros(size_px, size_px, dtype=torch.bool)
        mask[size_px // 8 : -size_px // 8, size_px // 8 : -size_px // 8] = True
        return Reference(image, mask)


def write_pipeline(folder: Path) -> Path:
    """Write the pipeline as save_pretrained does; its weights depend on fixed seeds alone."""
    transformer = build_transformer(seed=0, heads=1, double_blocks=2, single_blocks=4)
    pipeline = build_pipeline(build_vae(seed=1), transformer, PROMPTS, seed=2)
    pipeline.tokenizer_2.model_max_length = TEXT_TOKENS
    pipeline.save_pretrained(folder)
    (folder / "divrl.json").write_text(json.dumps({"image_size_px": SIZE_PX}))
    return folder


def start_weights(folder: Path, lora: LoraConfig) -> dict[str, Tensor]:
    """A LoRA whose B is not zero, so that it takes part: what every rival starts from."""
    transformer = FluxAdapter.load(str(folder)).transformer
    add_lora(transformer, lora.rank, lora.resolved_alpha, lora.targets, 0)
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator) * 0.1 / math.sqrt(value.shape[1])
        if "lora_B" in name
        else value
        for name, value in lora_state(transformer).items()
    }


def make_policy(
    folder: Path,
    start: dict[str, Tensor],
    lora: LoraConfig,
    *,
    size_px: int = SIZE_PX,
    text_tokens: int = TEXT_TOKENS,
    checkpointing: bool,
) -> Policy:
    """The product's policy on the pipeline, with the start weights."""
    adapter = FluxAdapter.load(str(folder), max_text_tokens=text_tokens)
    add_lora(adapter.transformer, lora.rank, lora.resolved_alpha, lora.targets, 0)
    load_lora_state(adapter.transformer, start)
    if checkpointing:
        adapter.enable_gradient_checkpointing()
    return Policy(adapter=adapter, size_px=size_px, guidance=GUIDANCE)
