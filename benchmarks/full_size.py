"""FLUX.1-Kontext at its full size on one GPU: what the plan says, what is measured, whether the ratio is 1.

The published architecture (19 + 38 blocks, 11.9 billion parameters) with random weights, which cost what real ones do;
prompts and references are random tensors of the real shapes. One group is sampled and learned from by the run's own
functions, for each way to hold the base. Run on a machine with a GPU:

    python benchmarks/full_size.py --json full-size.json
    python benchmarks/full_size.py --table full-size.json      # beside what the plan says; needs no GPU

`--blocks 1 1` tries the script itself with a block of each kind, on a CPU too, where no memory is measured.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from accelerate import Accelerator
from full_size_cases import CASES, Case, Measured, line, table
from full_size_model import TEXT_TOKENS, RandomPairs, fill, random_transformer, write_configs

from divrl_core.config import (
    RewardConfig,
)
from divrl_core.models.base_options import BaseOptions
from divrl_core.models.features.base import load_backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import PipelineFolder
from divrl_core.models.lora import add_lora
from divrl_core.models.offload import offload_blocks
from divrl_core.models.published_configs import PUBLISHED_PARTS
from divrl_core.models.quantized import hold_quantized
from divrl_core.models.transformer_load import compile_blocks
from divrl_core.training.judged import Judged
from divrl_core.training.placement import units_of_process
from divrl_core.training.policy import Policy
from divrl_core.training.processes import Processes
from divrl_core.training.references import PromptPair
from divrl_core.training.rollout import MicroBatch, roll_out, sampling_plan
from divrl_core.training.stepper import Stepper
from divrl_core.training.update import Learner

PAIR = PromptPair("subject#0", "subject", "a subject")


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


def synchronize() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes allocated on the GPU now; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


@contextmanager
def peak(device: torch.device) -> Iterator[list[int]]:
    """The most memory allocated inside of the block, in bytes."""
    found: list[int] = []
    if device.type != "cuda":
        yield found
        found.append(0)
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield found
    synchronize()
    found.append(torch.cuda.max_memory_allocated(device))


def measure(folder: PipelineFolder, case: Case, processes: Processes, repeats: int) -> Measured:
    """Sample a group and learn from it, `repeats` times after one that warms up."""
    config, device = case.config(), processes.device
    result = Measured(case=asdict(case))
    adapter = hold(folder, case, device)
    result.base_bytes = allocated()
    add_lora(adapter.transformer, case.rank, 2.0 * case.rank, config.lora.targets, 0)
    adapter.transformer.to(device) if not case.offload_blocks else None
    if case.checkpointing:
        adapter.enable_gradient_checkpointing()

    def autocast() -> Any:
        return torch.autocast(device.type, torch.bfloat16, enabled=case.autocast == "bf16")

    policy = Policy(adapter=adapter, size_px=case.size_px, guidance=2.5, autocast=autocast)
    stepper = Stepper(config.optim, policy.parameters, processes)
    learner = Learner(
        policy=policy,
        stepper=stepper,
        config=config.grpo,
        processes=processes,
        after_step=lambda: None,
    )
    pairs = RandomPairs(adapter, case.size_px)
    plan = sampling_plan(config.rollout, policy.times(config.rollout.steps), seed=0, update=0)
    units = units_of_process(0, 1, groups=1, group_size=case.group_size, micro_batch=case.micro_batch)
    stepper.lr = 1e-5
    for number in range(repeats + 1):
        batches: list[MicroBatch] = []
        synchronize()
        started = time.perf_counter()
        with peak(device) as found:
            for unit in units:
                given = pairs.conditioning([PAIR]).repeat(len(unit.samples))
                batches.append(roll_out(policy, plan, given, PAIR, unit, seed=0, update=number).on_host())
        result.rollout_peak = max(result.rollout_peak, found[0])
        rolled = time.perf_counter()
        if number == 0:
            result.ratio_deviation = max(learner.law_deviations(plan, pairs, batches[0]).values())  # type: ignore[arg-type]
        judged = [
            Judged(
                batch=batch,
                advantages=torch.linspace(-1, 1, len(batch.unit.samples)),
                valid=torch.ones(len(batch.unit.samples), dtype=torch.bool),
            )
            for batch in batches
        ]
        synchronize()
        began = time.perf_counter()
        with peak(device) as found:
            stats = learner.learn(plan, pairs, judged, on_progress=lambda made: None)  # type: ignore[arg-type]
        ended = time.perf_counter()
        result.train_peak = max(result.train_peak, found[0])
        result.ratio_mean_after = stats.ratio_mean
        if number:  # the first warms up, and compiles
            result.rollout_seconds.append(round(rolled - started, 4))
            result.train_seconds.append(round(ended - began, 4))
    return result


def measure_rewards(
    folder: PipelineFolder, device: torch.device, side: int, size: int = 21
) -> dict[str, Any]:
    """Decoding and scoring of a group: the full VAE with random weights, and lite0."""
    adapter = FluxAdapter(folder, dtype=torch.bfloat16, device=device, max_text_tokens=TEXT_TOKENS)
    codec = adapter._codec
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(PUBLISHED_PARTS["vae"])
    vae = vae.to(torch.bfloat16).to_empty(device=device).requires_grad_(False).eval()
    fill(vae)
    codec.vae = vae.to(memory_format=torch.channels_last)
    backbone = load_backbone(RewardConfig().backbone, device=device)
    tokens = torch.randn(size, *adapter.latent_shape(side, side), device=device)
    seconds: dict[str, list[float]] = {"decode": [], "features": []}
    with peak(device) as found:
        for _ in range(3):
            synchronize()
            started = time.perf_counter()
            pictures = torch.cat([adapter.decode(part, side, side) for part in tokens.split(3)])
            synchronize()
            decoded = time.perf_counter()
            backbone.extract(pictures)
            synchronize()
            seconds["decode"].append(round(decoded - started, 4))
            seconds["features"].append(round(time.perf_counter() - decoded, 4))
    return {"pictures": size, "seconds": seconds, "peak": found[0]}


@click.command()
@click.option(
    "--json", "output", type=click.Path(path_type=Path), help="Write everything measured to this file."
)
@click.option("--only", multiple=True, help="Cases by name; all unless given.")
@click.option("--repeats", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    nargs=2,
    help="Double and single blocks; the real numbers unless given.",
)
@click.option(
    "--size", type=click.IntRange(min=64), default=512, show_default=True, help="Side of the pictures, in px."
)
@click.option(
    "--table", "shown", type=click.Path(path_type=Path, exists=True), help="Print a file's table and exit."
)
@click.option("--seconds", type=float, default=1e9, help="Begin no case after this many seconds.")
def main(
    output: Path | None,
    only: tuple[str, ...],
    repeats: int,
    blocks: tuple[int, int] | None,
    size: int,
    shown: Path | None,
    seconds: float,
) -> None:
    """Measure every case, one after the other, and print a table."""
    if shown is not None:
        for words in table(shown):
            click.echo(words)
        return
    if not torch.cuda.is_available() and blocks is None:
        raise click.ClickException("a CUDA GPU is needed: this measures the full-size model")
    began = time.monotonic()
    processes = Processes(Accelerator())
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "cases": [],
    }
    with TemporaryDirectory() as name:
        folder = write_configs(Path(name), blocks)
        for case in CASES:
            case = replace(case, size_px=size)
            if (only and case.name not in only) or time.monotonic() - began > seconds:
                continue
            try:
                result = measure(folder, case, processes, repeats)
            except (RuntimeError, ValueError, ImportError) as error:
                result = Measured(case=asdict(case), error=f"{type(error).__name__}: {str(error)[:300]}")
            found["cases"].append(asdict(result))
            click.echo(line(result))
            torch.compiler.reset()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if output:
                output.write_text(json.dumps(found, indent=1))
        try:
            found["rewards"] = measure_rewards(folder, processes.device, size)
            click.echo(f"rewards of 21: {found['rewards']}")
        except (RuntimeError, ValueError, ImportError, FileNotFoundError) as error:
            click.echo(f"rewards: {error}")
    if output:
        output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
