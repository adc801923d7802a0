"""Networks of the real classes, small and random, on disk as `save_pretrained` saves them; and AlexNet's file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers as of

from divrl_core.models.features.alexnet import LpipsNetwork
from divrl_core.models.model_names import POCKET_FOLDER
from tests.models.small_vision import SIZES, save_model, write_processor

CLIP_NORM = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
MOST_TOKENS = 24


def save_clip(folder: Path) -> Path:
    """A whole CLIPModel for pictures of 56 px, with the pocket's vocabulary and a processor that crops."""
    folder.mkdir(parents=True)
    for file in (POCKET_FOLDER / "tokenizer").iterdir():
        shutil.copy(file, folder)
    tokenizer = of.CLIPTokenizer.from_pretrained(str(folder))
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(tokenizer), "max_position_embeddings": MOST_TOKENS,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {**SIZES, "projection_dim": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = of.CLIPModel(of.CLIPConfig(projection_dim=16, text_config=text, vision_config=vision))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    model.eval().save_pretrained(folder)
    return write_processor(
        folder,
        image_processor_type="CLIPImageProcessor",
        size={"shortest_edge": 56},
        crop_size={"height": 56, "width": 56},
        resample=3,
        **CLIP_NORM,
    )


def save_dino(folder: Path, **changes: Any) -> Path:
    """A Dinov2Model for pictures of 56 px with a processor as DINOv2's: resized a little larger than it is cropped."""
    save_model("dinov2", folder, **changes)
    return write_processor(
        folder,
        image_processor_type="BitImageProcessor",
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        resample=3,
        **IMAGENET,
    )


def save_alexnet(file: Path, seed: int = 0) -> Path:
    """AlexNet's convolutions under torchvision's names, random, with a classifier's weight that LPIPS leaves alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        state = {f"features.{name}": value for name, value in LpipsNetwork().features.state_dict().items()}
        state["classifier.6.bias"] = torch.zeros(1000)
    torch.save(state, file)
    return file


def edit_json(file: Path, **changes: object) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
