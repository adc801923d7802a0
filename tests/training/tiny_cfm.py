"""A cfm run small enough for a test: toy pictures in memory, the tiny pipeline on a width canvas, few pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from divrl_core.config import LoraConfig, ModelConfig
from divrl_core.config_cfm import CfmConfig, CfmOptimConfig, CfmRunConfig, ObjectiveConfig
from divrl_core.training.pair_data import CfmData
from divrl_core.training.pair_set import PictureFacts, TrainingPair, digest_of

SIZE_PX = 48  # the smallest whose lying panels are not square: 32 x 64
CAPTIONS = ("a toy fox on a blue floor", "a toy robot with red arms")


@dataclass(frozen=True)
class ToyPairs:
    """Blurred noise in colour; `shapes` are the pictures' sizes by name; `on_facts` is called at every look."""

    pairs: tuple[TrainingPair, ...]
    shapes: dict[str, tuple[int, int]]
    on_facts: Callable[[], None] = lambda: None

    def facts(self, picture_id: str) -> PictureFacts:
        self.on_facts()
        return PictureFacts(digest_of(self._pixels(picture_id)), *self.shapes[picture_id])

    def load(self, picture_id: str) -> Tensor:
        return self._pixels(picture_id).float() / 255

    def _pixels(self, picture_id: str) -> Tensor:
        generator = torch.Generator().manual_seed(sum(map(ord, picture_id)))
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        picture = torch.nn.functional.interpolate(coarse, self.shapes[picture_id], mode="bicubic")[0]
        return (picture.clamp(0, 1) * 255).byte()


def toy_pairs(names: str, *, wide: str = "", on_facts: Callable[[], None] = lambda: None) -> ToyPairs:
    """A pair (target X, reference x) for each letter; those in `wide` have a lying target."""
    shapes: dict[str, tuple[int, int]] = {}
    for name in names:
        shapes[f"{name}.target"] = (30, 60) if name in wide else (SIZE_PX, SIZE_PX)
        shapes[f"{name}.reference"] = (40, 20)
    pairs = tuple(TrainingPair(name, f"{name}.target", f"{name}.reference", CAPTIONS) for name in names)
    return ToyPairs(pairs, shapes, on_facts)


def toy_data(**settings: Any) -> CfmData:
    return CfmData(train=toy_pairs("abcde", wide="d", **settings), held_out=toy_pairs("xy", wide="y"))


def tiny_cfm(pipeline: Path, **changed: Any) -> CfmConfig:
    """Settings of a run of seconds; `changed` replaces single fields: run={"updates": 3}."""
    sections: dict[str, Any] = {
        "model": ModelConfig(
            path=str(pipeline),
            layout="width",
            guidance_scale=1.0,
            image_size_px=SIZE_PX,
            gradient_checkpointing=False,
        ),
        "lora": LoraConfig(rank=4),
        "objective": ObjectiveConfig(batch_size=2),
        "optim": CfmOptimConfig(lr=1e-3, warmup_updates=0, ema_decay=0.5),
        "run": CfmRunConfig(
            updates=4,
            validate_every_updates=2,
            sample_every_updates=100,
            save_every_updates=1,
            validation_times=(0.3, 0.7),
            sample_steps=2,
            sample_pairs=2,
            sample_seeds=(0,),
        ),
    }
    for name, fields in changed.items():
        sections[name] = replace(sections[name], **fields)
    return CfmConfig(**sections)
