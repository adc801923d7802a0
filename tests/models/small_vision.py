"""Vision models of transformers' real classes, small and random, saved as `save_pretrained` saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers as of
from torch import Tensor
from transformers.utils import logging as transformers_logging

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 16,
}


def small_model(kind: str, **changes: Any) -> Any:
    """A model of that kind, every parameter of it random, so that none can be left out unseen."""
    sizes = {**SIZES, **changes}
    both = {"text_config": TEXT, "vision_config": {**sizes, "projection_dim": 16}}
    builders = {
        "dinov2": lambda: of.Dinov2Model(of.Dinov2Config(mlp_ratio=2, **sizes)),
        "dinov2 for labels": lambda: of.Dinov2ForImageClassification(of.Dinov2Config(mlp_ratio=2, **sizes)),
        "dinov2 with registers": lambda: of.Dinov2WithRegistersModel(
            of.Dinov2WithRegistersConfig(mlp_ratio=2, **sizes)
        ),
        "dinov3": lambda: of.DINOv3ViTModel(of.DINOv3ViTConfig(num_register_tokens=4, **sizes)),
        "vit": lambda: of.ViTModel(of.ViTConfig(**sizes)),
        "vit for labels": lambda: of.ViTForImageClassification(of.ViTConfig(**sizes)),
        "clip vision": lambda: of.CLIPVisionModel(of.CLIPVisionConfig(projection_dim=16, **sizes)),
        "clip projection": lambda: of.CLIPVisionModelWithProjection(
            of.CLIPVisionConfig(projection_dim=16, **sizes)
        ),
        "clip": lambda: of.CLIPModel(of.CLIPConfig(projection_dim=16, **both)),
        "siglip vision": lambda: of.SiglipVisionModel(of.SiglipVisionConfig(**sizes)),
        "siglip headless": lambda: of.SiglipVisionModel(
            of.SiglipVisionConfig(vision_use_head=False, **sizes)
        ),
        "siglip": lambda: of.SiglipModel(of.SiglipConfig(**both)),
        "resnet": lambda: of.ResNetModel(
            of.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])
        ),
        "convnext": lambda: of.ConvNextModel(
            of.ConvNextConfig(image_size=64, depths=[1, 1], hidden_sizes=[8, 8], num_stages=2)
        ),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = builders[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def save_model(kind: str, folder: Path, *, shards: str = "5GB", **changes: Any) -> Path:
    """The folder with config.json and model.safetensors of `small_model`; `shards`: how large a file may be."""
    level, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    small_model(kind, **changes).save_pretrained(folder, max_shard_size=shards)
    transformers_logging.set_verbosity(level)
    if has_bar:
        transformers_logging.enable_progress_bar()
    return folder


def write_processor(folder: Path, **content: Any) -> Path:
    """preprocessor_config.json with these values; returns the folder."""
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def pictures(count: int = 2, size_px: int = 56) -> Tensor:
    """Different pictures (B, 3, S, S) in [0, 1]: patches of noise, each in a colour of its own."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    return torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bicubic").clamp(0, 1)
