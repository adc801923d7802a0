"""References in memory and settings of a stage that trains in seconds, with the tiny pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from divrl_core.config import (
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)
from divrl_core.training.data import PromptPair, Reference


@dataclass(frozen=True)
class ToyReferences:
    """Blurred coloured noise, one picture a name, its middle masked, one prompt each."""

    names: tuple[str, ...]
    mask_source: str = "files"

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        return tuple(PromptPair(f"{name}#0", name, f"a toy {name} on a blue floor") for name in self.names)

    def load(self, reference_id: str, size_px: int) -> Reference:
        generator = torch.Generator().manual_seed(sum(map(ord, reference_id)))
        coarse = torch.rand(1, 3, 6, 6, generator=generator)
        image = torch.nn.functional.interpolate(coarse, (size_px, size_px), mode="bicubic").clamp(0, 1)[0]
        mask = torch.zeros(size_px, size_px, dtype=torch.bool)
        mask[size_px // 8 : -size_px // 8, size_px // 8 : -size_px // 8] = True
        return Reference(image, mask)


def tiny_stage(pipeline: Path, stage: str) -> TrainConfig:
    """A stage of two updates of eight samples."""
    sections = {
        "model": ModelConfig(path=str(pipeline), gradient_checkpointing=False),
        "lora": LoraConfig(rank=2),
        "rollout": RolloutConfig(steps=3, stochastic_steps=(0, 1)),
        "optim": OptimConfig(lr=1e-3),
        "run": RunConfig(
            updates=2,
            sample_every_updates=2,
            eval_every_updates=2,
            save_every_updates=2,
            eval_steps=2,
            sample_steps=2,
            eval_images=2,
            sample_references=1,
            sample_seeds=(0, 1),
        ),
    }
    grpo = {
        "group_size": 4,
        "groups_per_update": 2,
        "micro_batch": 4,
        "clip_range": 1e-3,
        "min_valid_fraction": 0.0,
    }
    if stage == "explore":
        return TrainConfig.explore(
            reward=RewardConfig(kind="nssm", recipe="paper"), grpo=GrpoConfig(**grpo), **sections
        )
    reward = RewardConfig(kind="gated", recipe="paper")
    return TrainConfig.suppress(init_lora="explore", reward=reward, grpo=GrpoConfig(**grpo), **sections)
