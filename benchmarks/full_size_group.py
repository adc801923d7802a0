"""A group of the full-size model, sampled and learned from by the run's own functions, for benchmarks/full_size.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from full_size_cases import Case, Measured
from full_size_meter import allocated, peak, synchronize
from full_size_model import TEXT_TOKENS, RandomPairs, random_transformer

from divrl_core.config import TrainConfig
from divrl_core.models.base_options import BaseOptions
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import PipelineFolder
from divrl_core.models.lora import add_lora, freeze_reference
from divrl_core.models.offload import offload_blocks
from divrl_core.models.quantized import hold_quantized
from divrl_core.models.transformer_load import compile_blocks
from divrl_core.training.algorithms import ALGORITHMS, AnyLearner
from divrl_core.training.judged import Judged
from divrl_core.training.placement import Unit, units_of_process
from divrl_core.training.policy import Policy
from divrl_core.training.processes import Processes
from divrl_core.training.references import PromptPair
from divrl_core.training.rollout import MicroBatch, SamplingPlan, roll_out
from divrl_core.training.start import frozen_copies
from divrl_core.training.stepper import Stepper
from divrl_core.training.update import Learner

RATE = 1e-5  # of the optimizer


def hold(folder: PipelineFolder, case: Case, device: torch.device) -> FluxAdapter:
    """The adapter with its transformer, held as the case says."""
    options = BaseOptions(
        quantization=case.quantization, offload_blocks=case.offload_blocks, compile=case.compile
    )
    adapter = FluxAdapter(
        folder, dtype=torch.bfloat16, device=device, max_text_tokens=TEXT_TOKENS, base=options
    )
    transformer = random_transformer(folder, torch.device("cpu") if case.offload_blocks else device)
    if case.quantization != "none":
        hold_quantized(transformer, case.quantization, dtype=torch.bfloat16, device=device)
    if case.offload_blocks:
        offload_blocks(transformer, case.offload_blocks, device)
    if case.compile:
        compile_blocks(transformer)
    adapter.transformer = transformer
    return adapter


def policy_of(adapter: FluxAdapter, case: Case, config: TrainConfig, device: torch.device) -> Policy:
    """The policy with its LoRA, and with the frozen copies that the algorithm needs beside it."""
    add_lora(adapter.transformer, case.rank, 2.0 * case.rank, config.lora.targets, 0)
    if not case.offload_blocks:
        adapter.transformer.to(device)
    for name in frozen_copies(config):
        freeze_reference(adapter.transformer, adapter=name)
    if case.checkpointing:
        adapter.enable_gradient_checkpointing()

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=case.autocast == "bf16")

    return Policy(adapter=adapter, size_px=case.size_px, guidance=2.5, autocast=autocast)


def draw(
    policy: Policy, plan: SamplingPlan, pairs: RandomPairs, units: Sequence[Unit], learner: AnyLearner
) -> list[MicroBatch]:
    """The update's samples, drawn by the policy that the algorithm draws with, in host memory."""
    batches = []
    with learner.drawing():
        for unit in units:
            pair = PromptPair(f"subject#{unit.group}", "subject", "a subject")
            given = pairs.conditioning([pair]).repeat(len(unit.samples))
            batches.append(roll_out(policy, plan, given, pair, unit, seed=0, update=plan.update).on_host())
    return batches


def judge(batches: Sequence[MicroBatch]) -> list[Judged]:
    """The batches with advantages from -1 to 1."""
    return [
        Judged(
            batch=batch,
            advantages=torch.linspace(-1, 1, len(batch.unit.samples)),
            valid=torch.ones(len(batch.unit.samples), dtype=torch.bool),
        )
        for batch in batches
    ]


def measure(folder: PipelineFolder, case: Case, processes: Processes, repeats: int) -> dict[str, Any]:
    """Sample the case's groups and learn from them, `repeats` times after one that warms up."""
    config, device = case.config(), processes.device
    result = Measured(case=asdict(case))
    adapter = hold(folder, case, device)
    result.base_bytes = allocated()
    policy = policy_of(adapter, case, config, device)
    stepper = Stepper(config.optim, policy.parameters, processes)
    stepper.lr = RATE
    algorithm = ALGORITHMS[config.algorithm]
    learner = algorithm.learner(config, policy, stepper, processes, lambda: None, None)
    pairs: Any = RandomPairs(adapter, case.size_px)
    units = units_of_process(
        0,
        1,
        groups=case.groups,
        group_size=case.group_size,
        micro_batch=case.micro_batch,
        shares=case.optimizer_steps,
    )
    for number in range(repeats + 1):
        plan = algorithm.plan(config, policy.times(config.rollout.steps), number)
        synchronize()
        started = time.perf_counter()
        with peak(device) as found:
            batches = draw(policy, plan, pairs, units, learner)
        rolled = time.perf_counter()
        result.rollout_peak = max(result.rollout_peak, found[0])
        if number == 0 and isinstance(learner, Learner):
            result.ratio_deviation = max(learner.law_deviations(plan, pairs, batches[0]).values())
        judged = judge(batches)
        synchronize()
        began = time.perf_counter()
        with peak(device) as found:
            stats = learner.learn(plan, pairs, judged, on_progress=lambda made: None)
        ended = time.perf_counter()
        result.train_peak = max(result.train_peak, found[0])
        result.update = stats.row()
        result.model_evaluations = stats.model_evaluations
        if number:  # the first warms up, and compiles
            result.rollout_seconds.append(round(rolled - started, 4))
            result.train_seconds.append(round(ended - began, 4))
    return asdict(result)
