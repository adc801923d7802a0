"""The ways to hold the full-size base that benchmarks/full_size.py measures, and what it prints of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
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
from divrl_core.training.cards import GIB
from divrl_core.training.run_plan import plan_run

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

    def config(self) -> TrainConfig:
        """The same as settings of a run."""
        return TrainConfig.explore(
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
            grpo=GrpoConfig(group_size=self.group_size, groups_per_update=1, micro_batch=self.micro_batch),
            optim=OptimConfig(),
            reward=RewardConfig(kind="brightness"),
            run=RunConfig(mixed_precision=self.autocast),  # type: ignore[arg-type]
        )


@dataclass(kw_only=True)
class Measured:
    """What a case took. Bytes; seconds of the whole group; allocated memory, without what the allocator holds free."""

    case: dict[str, Any]
    base_bytes: int = 0
    rollout_peak: int = 0
    train_peak: int = 0
    decode_peak: int = 0
    rollout_seconds: list[float] = field(default_factory=list)
    train_seconds: list[float] = field(default_factory=list)
    decode_seconds: float = 0.0
    ratio_deviation: float = float("nan")
    ratio_mean_after: float = float("nan")
    error: str = ""


CASES = (
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


def planned(case: Case) -> dict[str, int]:
    """What `divrl-train plan` says of the case: bytes on the device by phase, of what these measurements hold."""
    parts = plan_run(case.config()).as_json()["memory"]["parts"]
    absent = ("VAE", "reward backbone", "reference features")
    there = [part["bytes"] for part in parts if part["place"] == "device" and part["name"] not in absent]
    return {phase: sum(sizes.get(phase, 0) for sizes in there) for phase in ("sample", "train")}


def table(path: Path) -> Iterator[str]:
    """What was measured, a row a case, beside the plan: GiB, seconds a sample, TFLOP/s by the plan's count."""
    found = json.loads(path.read_text())
    yield f"{found['device']}, torch {found['torch']}"
    yield "| case | base | rollout planned | measured | training planned | measured | rollout s | training s | ratio |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in found["cases"]:
        case = Case(**row["case"])
        if row["error"]:
            yield f"| {case.name} | {row['error']} |"
            continue
        phases, size = planned(case), case.group_size
        numbers = [
            row["base_bytes"] / GIB,
            phases["sample"] / GIB,
            row["rollout_peak"] / GIB,
            phases["train"] / GIB,
            row["train_peak"] / GIB,
            min(row["rollout_seconds"]) / size,
            min(row["train_seconds"]) / size,
        ]
        cells = " | ".join(f"{number:.2f}" for number in numbers)
        yield f"| {case.name}, micro-batch {case.micro_batch} | {cells} | {row['ratio_deviation']:.2g} |"
    yield f"rewards: {found.get('rewards')}"


def line(result: Measured) -> str:
    """A case in one line."""
    if result.error:
        return f"{result.case['name']}: {result.error}"
    return (
        f"{result.case['name']} (micro-batch {result.case['micro_batch']}, group {result.case['group_size']}): base "
        f"{result.base_bytes / GIB:.2f} GiB, rollout {min(result.rollout_seconds):.2f} s and "
        f"{result.rollout_peak / GIB:.2f} GiB, training {min(result.train_seconds):.2f} s and "
        f"{result.train_peak / GIB:.2f} GiB, "
        f"|ratio - 1| {result.ratio_deviation:.3g}"
    )
