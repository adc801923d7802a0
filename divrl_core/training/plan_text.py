"""A plan as lines for a terminal: aligned tables, memory in GiB (2^30 bytes)."""

from __future__ import annotations

from ..config import TrainConfig
from .cards import CONTEXT_BYTES, GIB, MARGIN_SHARE, SIZES
from .memory_plan import MemoryPlan
from .plan_changes import batch_setting, changed
from .plan_counts import lora_numbers, unit_sizes
from .plan_inputs import Workload
from .run_plan import RunPlan

NAME_WIDTH, COLUMN_WIDTH = 22, 10
SMALLEST_SHOWN = 0.005  # GiB, below which two places after the point show nothing


def plan_lines(plan: RunPlan) -> list[str]:
    """The whole plan, a line each."""
    return [
        *_head(plan.load),
        "",
        *_memory_table(plan.memory),
        "",
        *_verdict(plan),
        "",
        *_work_table(plan),
    ]


def _head(load: Workload) -> list[str]:
    config, (double, single) = load.config, load.pipeline.blocks
    numbers = sum(lora_numbers(load))
    lines = [
        f"{config.stage}{_algorithm(load)} of {load.pipeline.name}: {double} double and {single} single blocks, "
        f"{config.model.dtype}",
        f"pictures of {load.size_px} px: {load.image_tokens} tokens with the reference, {load.text_tokens} of text; "
        f"LoRA of rank {config.lora.rank}: {numbers / 1e6:,.1f} M parameters",
    ]
    if load.processes > 1:
        lines.append(_processes(load))
    if load.pipeline.remark:
        lines.append(load.pipeline.remark)
    if config.model.compile:
        lines.append("model.compile: planned as if it were not compiled")
    return lines


def _algorithm(load: Workload) -> str:
    """How explore and suppress learn, in words."""
    return f" by {load.config.algorithm}" if isinstance(load.config, TrainConfig) else ""


def _processes(load: Workload) -> str:
    base = (
        "each holds its share of the base (FSDP2)" if load.is_sharded else "each holds the whole base (DDP)"
    )
    if load.is_cfm:
        return f"{load.processes} processes: {base}"
    sizes = unit_sizes(load)
    samples = [sum(units) for units in sizes]
    spread = f"{min(samples)} to {max(samples)}" if min(samples) < max(samples) else f"{max(samples)}"
    groups = load.config.grpo.groups_per_update / load.processes  # type: ignore[union-attr]
    return f"{load.processes} processes: {base}; {groups:g} groups, {spread} samples of an update for each"


def _memory_table(memory: MemoryPlan) -> list[str]:
    title = "memory of a process, GiB"
    lines = [f"{title:<{NAME_WIDTH + 2}}" + "".join(f"{phase:>{COLUMN_WIDTH}}" for phase in memory.phases)]
    for place, heading in (("device", None), ("host", "in host memory")):
        rows = [row for row in memory.rows if row.place == place]
        if not rows:
            continue
        lines += [heading] if heading else []
        for row in rows:
            cells = "".join(_cell(row.bytes.get(phase)) for phase in memory.phases)
            lines.append(f"  {row.name:<{NAME_WIDTH}}{cells}  {row.note}".rstrip())
        totals = "".join(
            _cell(memory.total(phase, "device" if place == "device" else "host")) for phase in memory.phases
        )
        lines.append(f"  {'together':<{NAME_WIDTH}}{totals}")
    return lines


def _cell(size: int | None) -> str:
    if not size:
        return " " * COLUMN_WIDTH
    shown = size / GIB
    return f"{shown:>{COLUMN_WIDTH}.2f}" if shown >= SMALLEST_SHOWN else f"{'<0.01':>{COLUMN_WIDTH}}"


def _verdict(plan: RunPlan) -> list[str]:
    memory, card, config = plan.memory, plan.card, plan.load.config
    used = "with" if config.model.gradient_checkpointing else "without"
    lines = [
        f"activations: {gib(plan.checkpointed)} with gradient checkpointing, {gib(plan.unchecked)} without; "
        f"this run goes {used}",
        f"peak: {gib(memory.peak)}, in {memory.peak_phase}",
    ]
    if card is None:
        sizes = ", ".join(plan.fitting_sizes) or "none"
        return [
            *lines,
            f"fits (with {MARGIN_SHARE:.0%} and 1 GiB of head-room), of {', '.join(SIZES)}: {sizes}",
        ]
    needed, has = card.needed(memory.peak), card.memory_bytes
    word = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(
        f"{card.title}: {word}: {gib(memory.peak)} + {MARGIN_SHARE:.0%} + {gib(CONTEXT_BYTES)} = {gib(needed)} "
        f"of {gib(has)}"
    )
    name = batch_setting(config)
    if plan.largest_micro_batch:
        largest = changed(plan.load, {name: plan.largest_micro_batch}).micro_batch
        same = (
            "" if largest == plan.largest_micro_batch else f" (groups are then cut into parts of {largest})"
        )
        lines.append(f"largest {name} that fits: {plan.largest_micro_batch}{same}")
    if plan.fits:
        return lines
    if not plan.changes:
        return [*lines, f"nothing that was tried makes it fit: take a card of more than {gib(has)}"]
    lines.append("what makes it fit, each by itself:" if len(plan.changes) > 1 else "what makes it fit:")
    return [*lines, *(f"  {change.words}: {gib(change.peak)}, fits" for change in plan.changes)]


def _work_table(plan: RunPlan) -> list[str]:
    cost = plan.cost
    title = "work, TFLOP"
    head = f"{title:<{NAME_WIDTH + 2}}{'a ' + cost.unit:>{COLUMN_WIDTH + 2}}{'an update':>{COLUMN_WIDTH + 4}}"
    lines = [head + (f"{'time':>{COLUMN_WIDTH + 2}}" if cost.rate else "")]
    for row in cost.rows:
        lines.append(
            f"  {row.name:<{NAME_WIDTH}}{row.unit_tflop:>{COLUMN_WIDTH + 2},.1f}"
            f"{row.update_tflop:>{COLUMN_WIDTH + 4},.1f}{_time_cell(row.seconds)}"
        )
    lines.append(
        f"  {'together':<{NAME_WIDTH}}{sum(row.unit_tflop for row in cost.rows):>{COLUMN_WIDTH + 2},.1f}"
        f"{cost.update_tflop:>{COLUMN_WIDTH + 4},.1f}{_time_cell(cost.update_seconds)}"
    )
    at = "" if cost.evaluation_seconds is None else f", {duration(cost.evaluation_seconds)}"
    lines.append(f"an evaluation: {cost.evaluation_tflop:,.1f} TFLOP{at}; {cost.evaluations} of them")
    if cost.rate is None:
        return [*lines, "time: name a --card or a --rate in TFLOP/s"]
    hours = cost.run_hours or 0.0
    return [
        *lines,
        f"the run of {cost.updates} updates: {duration(3600 * hours)}, computing alone",
        f"at {cost.rate.words}",
    ]


def _time_cell(seconds: float | None) -> str:
    return "" if seconds is None else f"{duration(seconds):>{COLUMN_WIDTH + 2}}"


def gib(size: int) -> str:
    """21.3 GiB; small sizes in MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """0.21 s, 42 s, 3.5 min, 7.2 h, 12 days."""
    for limit, unit, word in ((60, 1, "s"), (3600, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {word}"
    return f"{seconds / 86_400:.3g} days"
