"""Operations and time of a run, before anything is loaded.

Operations are those of matrix products, convolutions and attention, counted while the model runs without memory. Time
is operations at a stated rate, nothing else: no copying, no waiting, no host work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..config import TrainConfig
from ..config_cfm import CfmConfig
from ..models.encoder_trace import reward_size, vae_size
from ..models.transformer_flops import TransformerFlops, transformer_flops
from .cards import USABLE_SHARE, Card
from .plan_counts import unit_sizes
from .plan_inputs import Workload

TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Operations a second that are counted with, and in words where they come from."""

    half: float
    """Of products in 16 bits."""
    single: float
    """Of products in float32."""
    words: str


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One kind of work: operations of one group (cfm: one pair) and of one update, and an update's seconds."""

    name: str
    unit_tflop: float
    update_tflop: float
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class CostPlan:
    """The work of an update, of an evaluation and of the run."""

    rows: tuple[CostRow, ...]
    rate: Rate | None
    processes: int
    unit: str
    """What `unit_tflop` is counted for: group or pair."""
    updates: int
    evaluations: int
    evaluation_tflop: float
    evaluation_seconds: float | None

    @property
    def update_tflop(self) -> float:
        """Operations of one update, over all processes."""
        return sum(row.update_tflop for row in self.rows)

    @property
    def update_seconds(self) -> float | None:
        """Seconds of one update at the rate; None where no rate is known."""
        known = [row.seconds for row in self.rows if row.seconds is not None]
        return sum(known) if len(known) == len(self.rows) else None

    @property
    def run_hours(self) -> float | None:
        """Hours of all updates and evaluations at the rate."""
        if self.update_seconds is None or self.evaluation_seconds is None:
            return None
        return (self.updates * self.update_seconds + self.evaluations * self.evaluation_seconds) / 3600


def rate_of(card: Card | None, stated_tflops: float | None) -> Rate | None:
    """The rate to count with: the one stated, else a share of the card's peak (what one H200 reached).

    Raises ValueError when the stated rate is not a positive number.
    """
    if stated_tflops is not None:
        if not 0 < stated_tflops < float("inf"):
            raise ValueError(f"--rate must be above 0 TFLOP/s, got {stated_tflops:g}")
        rate = stated_tflops * TERA
        return Rate(half=rate, single=rate, words=f"{stated_tflops:g} TFLOP/s as stated")
    if card is None or not card.bf16_tflops:
        return None
    half, single = (USABLE_SHARE * peak * TERA for peak in (card.bf16_tflops, card.fp32_tflops))
    return Rate(
        half=half,
        single=single,
        words=f"{half / TERA:.0f} TFLOP/s in bfloat16 and {single / TERA:.0f} in float32: {USABLE_SHARE:.0%} of the "
        f"peak of the {card.rates_of or card.name}, as an H200 reached; --rate states a measured one",
    )


def plan_cost(load: Workload, rate: Rate | None) -> CostPlan:
    """The work of a run and, at a rate, its time. Several processes share an update's work as the run places it."""
    flops = transformer_flops(load.trace_request(1))
    return _cfm_cost(load, flops, rate) if load.is_cfm else _stage_cost(load, flops, rate)


def _stage_cost(load: Workload, flops: TransformerFlops, rate: Rate | None) -> CostPlan:
    config = load.config
    assert isinstance(config, TrainConfig)
    grpo, run = config.grpo, config.run
    picture = _picture_flops(load)
    backbone, _ = reward_size(config.reward, batch=1, size_px=load.size_px)
    scoring = {torch.float32: backbone.flops}
    work = config.work_of_a_sample
    kinds: dict[str, Mapping[torch.dtype, float]] = {
        "rollout": _times(flops.forward, work.rollout),
        "decoding and reward": _sum(picture, scoring),
        "training": _times(flops.training, work.trained),
    }
    if config.model.gradient_checkpointing:
        kinds["recomputation"] = _times(flops.forward, work.trained)
    if work.old_policy:
        kinds["old policy"] = _times(flops.forward, work.old_policy)
    if work.kl_reference:
        kinds["KL reference"] = _times(flops.forward, work.kl_reference)
    samples = grpo.samples_per_update
    fullest = max(map(sum, unit_sizes(load)))
    rows = tuple(
        CostRow(
            name=name,
            unit_tflop=_total(work) * grpo.group_size / TERA,
            update_tflop=_total(work) * samples / TERA,
            seconds=_seconds(work, rate, fullest),
        )
        for name, work in kinds.items()
    )
    one = _sum(_times(flops.forward, run.eval_steps), picture, scoring)
    share = -(-run.eval_images // load.processes)
    return CostPlan(
        rows=rows,
        rate=rate,
        processes=load.processes,
        unit="group",
        updates=run.updates,
        evaluations=run.updates // run.eval_every_updates + 1,
        evaluation_tflop=_total(one) * run.eval_images / TERA,
        evaluation_seconds=_seconds(one, rate, share),
    )


def _cfm_cost(load: Workload, flops: TransformerFlops, rate: Rate | None) -> CostPlan:
    config = load.config
    assert isinstance(config, CfmConfig)
    objective, run = config.objective, config.run
    kinds: dict[str, Mapping[torch.dtype, float]] = {"training": flops.training}
    if config.model.gradient_checkpointing:
        kinds["recomputation"] = flops.forward
    pairs = objective.batch_size * objective.accumulation
    fullest = objective.batch_size * -(-objective.accumulation // load.processes)
    rows = tuple(
        CostRow(
            name=name,
            unit_tflop=_total(work) / TERA,
            update_tflop=_total(work) * pairs / TERA,
            seconds=_seconds(work, rate, fullest),
        )
        for name, work in kinds.items()
    )
    validated = config.data.held_out_pairs * len(run.validation_times)
    return CostPlan(
        rows=rows,
        rate=rate,
        processes=load.processes,
        unit="pair",
        updates=run.updates,
        evaluations=run.updates // run.validate_every_updates + 1,
        evaluation_tflop=_total(flops.forward) * validated / TERA,
        evaluation_seconds=_seconds(flops.forward, rate, -(-validated // load.processes)),
    )


def _picture_flops(load: Workload) -> dict[torch.dtype, float]:
    size = vae_size(
        load.pipeline, load.dtype, batch=1, size_px=load.size_px, is_decoding=True, device=load.device
    )
    return {load.dtype: size.flops}


def _times(work: Mapping[torch.dtype, float], count: float) -> dict[torch.dtype, float]:
    return {dtype: flops * count for dtype, flops in work.items()}


def _sum(*works: Mapping[torch.dtype, float]) -> dict[torch.dtype, float]:
    added: dict[torch.dtype, float] = {}
    for work in works:
        for dtype, flops in work.items():
            added[dtype] = added.get(dtype, 0) + flops
    return added


def _total(work: Mapping[torch.dtype, float]) -> float:
    return sum(work.values())


def _seconds(work: Mapping[torch.dtype, float], rate: Rate | None, count: int) -> float | None:
    """Seconds for `count` samples, one after the other."""
    if rate is None:
        return None
    by_dtype = (
        flops / (rate.single if dtype == torch.float32 else rate.half) for dtype, flops in work.items()
    )
    return count * sum(by_dtype)
