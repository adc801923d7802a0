"""The ways to hold and to train the full-size base that benchmarks/full_size.py measures, and what they take."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from divrl_core.config import (
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RunConfig,
    TrainConfig,
)

MODEL = "black-forest-labs/FLUX.1-Kontext-dev"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to hold and train the base."""

    name: str
    quantization: str = "none"
    checkpointing: bool = True
    compile: bool = False
    offload_blocks: int = 0
    autocast: str = "bf16"
    micro_batch: int = 3
    group_size: int = 3
    rank: int = 64
    size_px: int = 512
    algorithm: str = "grpo"
    objective: str = "clip"
    groups: int = 1
    optimizer_steps: int = 1

    @property
    def samples(self) -> int:
        """Samples of an update."""
        return self.group_size * self.groups

    def config(self) -> TrainConfig:
        """The same as settings of a run."""
        return TrainConfig.explore(
            algorithm=self.algorithm,
            model=ModelConfig(
                path=MODEL,
                dtype="bfloat16",
                image_size_px=self.size_px,
                quantization=self.quantization,  # type: ignore[arg-type]
                gradient_checkpointing=self.checkpointing,
                compile=self.compile,
                offload_blocks=self.offload_blocks,
            ),
            lora=LoraConfig(rank=self.rank),
            grpo=GrpoConfig(
                group_size=self.group_size,
                groups_per_update=self.groups,
                micro_batch=self.micro_batch,
                objective=self.objective,  # type: ignore[arg-type]
                optimizer_steps_per_rollout=self.optimizer_steps,
            ),
            optim=OptimConfig(),
            reward=RewardConfig(kind="brightness"),
            run=RunConfig(mixed_precision=self.autocast),  # type: ignore[arg-type]
        )


@dataclass(kw_only=True)
class Measured:
    """What a case took. Bytes; seconds of all its groups; allocated memory, without what the allocator holds free.

    update: what metrics.jsonl would say of the last update; a loss or gradient that is not finite ends the case.
    """

    case: dict[str, Any]
    base_bytes: int = 0
    rollout_peak: int = 0
    train_peak: int = 0
    rollout_seconds: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    ratio_deviation: float = float("nan")
    update: dict[str, float] = field(default_factory=dict)
    model_evaluations: int = 0
    error: str = ""


BASES = (
    Case(name="bf16", group_size=6),
    Case(name="bf16, LoRA in float32", autocast="no"),
    Case(name="bf16, no checkpointing", checkpointing=False),
    Case(name="bf16, micro-batch 7", micro_batch=7, group_size=7),
    Case(name="bf16, compiled", compile=True, group_size=6),
    Case(name="fp8", quantization="fp8"),
    Case(name="nf4", quantization="nf4"),
    Case(name="int8", quantization="int8"),
    Case(name="torchao_int8", quantization="torchao_int8"),
    Case(name="bf16, 57 blocks offloaded", offload_blocks=57),
)
ALGORITHMS_COMPARED = (
    BASES[0],  # Flow-GRPO
    Case(name="Flow-DPPO", objective="dppo", groups=2, optimizer_steps=2),  # a step learns from whole groups
    Case(name="DiffusionNFT", algorithm="nft", group_size=6),
)
