"""The plan of a run: memory, work, whether it fits a card, and what to change if not. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..models.pipeline_config import PipelineConfig, pipeline_config
from .cards import GIB, SIZES, Card, card_of
from .cost_plan import CostPlan, plan_cost, rate_of
from .memory_plan import MemoryPlan, plan_memory
from .plan_changes import Change, changes, largest_batch
from .plan_counts import base_of, trace_of
from .plan_inputs import PlannedConfig, Workload


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What is known of a run before anything is loaded."""

    load: Workload
    card: Card | None
    memory: MemoryPlan
    cost: CostPlan
    checkpointed: int
    """Bytes of activations with gradient checkpointing, and without it."""
    unchecked: int
    largest_micro_batch: int | None
    """That fits the card; None without a card, or where nothing does."""
    changes: tuple[Change, ...]
    """What makes it fit, where it does not."""

    @property
    def fits(self) -> bool | None:
        """Whether it fits the card with head-room; None where no card was named."""
        return None if self.card is None else self.card.fits(self.memory.peak)

    @property
    def fitting_sizes(self) -> tuple[str, ...]:
        """Of the usual sizes, those that it fits."""
        return tuple(size for size in SIZES if card_of(size).fits(self.memory.peak))

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values: bytes, TFLOP, seconds."""
        memory, cost, load = self.memory, self.cost, self.load
        return {
            "stage": load.config.stage,
            "model": load.pipeline.name,
            "remark": load.pipeline.remark,
            "image_size_px": load.size_px,
            "image_tokens": load.image_tokens,
            "text_tokens": load.text_tokens,
            "micro_batch": load.micro_batch,
            "processes": load.processes,
            "sharded": load.is_sharded,
            "memory": {
                "unit": "bytes",
                "parts": [
                    {"name": row.name, "place": row.place, "bytes": dict(row.bytes), "note": row.note}
                    for row in memory.rows
                ],
                "device_by_phase": {phase: memory.total(phase, "device") for phase in memory.phases},
                "host_by_phase": {phase: memory.total(phase, "host") for phase in memory.phases},
                "peak": memory.peak,
                "peak_phase": memory.peak_phase,
                "activations_checkpointed": self.checkpointed,
                "activations_without_checkpointing": self.unchecked,
            },
            "card": None if self.card is None else _card_json(self.card, memory.peak),
            "fits": self.fits,
            "fitting_sizes": list(self.fitting_sizes),
            "largest_micro_batch": self.largest_micro_batch,
            "changes": [
                {"settings": dict(change.settings), "peak": change.peak, "fits": change.fits}
                for change in self.changes
            ],
            "work": {
                "unit": f"TFLOP; {cost.unit}, update",
                "rows": [
                    {
                        "name": row.name,
                        cost.unit: row.unit_tflop,
                        "update": row.update_tflop,
                        "seconds": row.seconds,
                    }
                    for row in cost.rows
                ],
                "update": cost.update_tflop,
                "update_seconds": cost.update_seconds,
                "evaluation": cost.evaluation_tflop,
                "evaluation_seconds": cost.evaluation_seconds,
                "evaluations": cost.evaluations,
                "updates": cost.updates,
                "run_hours": cost.run_hours,
                "rate": None if cost.rate is None else cost.rate.words,
            },
        }


def plan_run(
    config: PlannedConfig,
    *,
    card: Card | None = None,
    processes: int | None = None,
    is_sharded: bool = False,
    rate_tflops: float | None = None,
    counts: Mapping[str, int] | None = None,
    pipeline: PipelineConfig | None = None,
) -> RunPlan:
    """Plan a run.

    Args:
        config: of explore, suppress or cfm.
        card: the card of each process; None: no verdict, and no time without a rate.
        processes: None: as many as the card's count says, else 1.
        is_sharded: FSDP2 over the processes: each holds its share of the base.
        rate_tflops: a measured rate; None: a share of the card's peak.
        counts: "prompts" and "references" of the data, where they are known.
        pipeline: the model's configuration; None: read from model.path.

    Raises ValueError or FileNotFoundError in one line for a model, a file, a rate or a number that cannot be.
    """
    if card is not None and card.count > 1 and processes not in (None, card.count):
        raise ValueError(
            f"--processes {processes} and --card {card.title} contradict each other: a process has one card; "
            "leave one of them out"
        )
    count = processes or (1 if card is None else card.count)
    if count < 1:
        raise ValueError(f"--processes must be at least 1, got {count}")
    if is_sharded and count == 1:
        raise ValueError("--sharded needs several processes: add --processes or a card such as 8x80GB")
    known = counts or {}
    load = Workload(
        config=config,
        pipeline=pipeline or pipeline_config(config.model.path, config.model.revision),
        device="cpu" if card is not None and card.is_host else "cuda",
        processes=count,
        is_sharded=is_sharded,
        prompts=known.get("prompts"),
        references=known.get("references"),
    )
    rate = rate_of(card, rate_tflops)
    base_of(load)  # refuses what the model cannot have, before the long counts
    memory = plan_memory(load)
    trace = trace_of(load, load.micro_batch)
    is_short = card is not None and not card.fits(memory.peak)
    return RunPlan(
        load=load,
        card=card,
        memory=memory,
        cost=plan_cost(load, rate),
        checkpointed=trace.checkpointed,
        unchecked=trace.saved,
        largest_micro_batch=None if card is None else largest_batch(load, card),
        changes=changes(load, card) if card is not None and is_short else (),
    )


def _card_json(card: Card, peak: int) -> dict[str, Any]:
    return {
        "name": card.name,
        "count": card.count,
        "memory_bytes": card.memory_bytes,
        "needed_bytes": card.needed(peak),
        "memory_gib": card.memory_bytes / GIB,
    }
