"""A training run small enough for a test: four toy references in memory, the tiny pipeline, few samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny

from divrl_core.config import (
    DataConfig,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from divrl_core.training.data import PromptPair, Reference, RunData

SIZE_PX = 32


@dataclass(frozen=True)
class ToyReferences:
    """Blurred noise in colour, one picture a name, the middle of it masked."""

    names: tuple[str, ...]
    prompts: tuple[str, ...] = ("a toy fox on a blue floor", "a toy robot with red arms")
    mask_source: str = "files"

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        return tuple(
            PromptPair(f"{name}#{place}", name, prompt)
            for name in self.names
            for place, prompt in enumerate(self.prompts)
        )

    def load(self, reference_id: str, size_px: int) -> Reference:
        return _toy(reference_id, size_px)


@lru_cache
def _toy(name: str, size_px: int) -> Reference:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    coarse = torch.rand(1, 3, 6, 6, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bicubic").clamp(0, 1)[0]
    mask = torch.zeros(size_px, size_px, dtype=torch.bool)
    mask[size_px // 8 : -size_px // 8, size_px // 8 : -size_px // 8] = True
    return Reference(image, mask)


def toy_data(names: Sequence[str] = ("ant", "bee", "cat", "dog")) -> RunData:
    return RunData(train=ToyReferences(tuple(names)), held_out=ToyReferences(("elk", "fox")))


def tiny_config(
    pipeline: Path, *, kind: str = "brightness", stage: str = "explore", **changed: Any
) -> TrainConfig:
    """Settings of a run of seconds; `changed` replaces single fields: run={"updates": 3}."""
    sections: dict[str, Any] = {
        "model": ModelConfig(path=str(pipeline), gradient_checkpointing=False, image_size_px=SIZE_PX),
        "lora": LoraConfig(rank=4),
        "data": DataConfig(),
        "reward": RewardConfig(kind=kind, recipe="paper"),  # type: ignore[arg-type]
        "rollout": RolloutConfig(steps=3, stochastic_steps=(0, 1)),
        "grpo": GrpoConfig(group_size=6, groups_per_update=2, micro_batch=3, clip_range=1e-3),
        "optim": OptimConfig(lr=1e-3),
        "run": RunConfig(
            updates=4,
            sample_every_updates=100,
            eval_every_updates=2,
            save_every_updates=1,
            eval_steps=2,
            sample_steps=2,
            eval_images=2,
            sample_references=1,
            sample_seeds=(0,),
        ),
    }
    for name, fields in changed.items():
        sections[name] = replace(sections[name], **fields)
    return TrainConfig(stage=stage, **sections)  # type: ignore[arg-type]


def brighter_pipeline(source: Path, target: Path) -> Path:
    """A copy of the tiny pipeline whose untrained VAE makes mid-grey pictures, so that brightness can go both ways."""
    shutil.copytree(source, target)
    vae = AutoencoderTiny.from_pretrained(target / "vae")
    last = vae.decoder.layers[-1]
    with torch.no_grad():
        last.weight.mul_(4)
        last.bias.fill_(0.5)
    vae.save_pretrained(target / "vae")
    return target


def rows_of(output: Path, kind: str = "train") -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]
