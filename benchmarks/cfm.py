"""What a step of masked conditional flow matching costs against diffusers' ordinary training pattern, all from one run.

    python benchmarks/cfm.py [--threads 1] [--repeats 15] [--batch 1 --batch 8] [--width-heads 8] [--quick]

Three steps take turns, so that a busy machine hits all alike:

- `masked`: the product's own: cached latents and captions, encoders dropped, the loss on the target's tokens alone;
- `ordinary`: as diffusers' FLUX LoRA scripts without their caching options: each step encodes both pictures and the
  prompts, joins the latents along width, packs the wide picture, and counts all of it in the loss (the reference stays
  clean, so that the task is the same);
- `ordinary, cached`: the same from latents and embeddings held in memory, without encoders.

Model, LoRA (peft), optimizer, clipping, pairs, batch, dtype, text length and attention kernel are the same for all. The
product's moving average of the weights and its log are left out. Before anything is timed, all get one noise and one
time, and their predictions of the target must agree.

A step's peak is the most bytes of tensors alive at once beyond what was there before it, counted by torch.profiler from
every allocation. What stays between steps is counted apart: weights, LoRA, AdamW's moments, and encoders where a step
needs them (the VAE whole). The pocket's VAE is larger than its transformer, so these ratios are not those of FLUX.1.
"""

from __future__ import annotations

import gc
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
import diffusers
import torch
import transformers
from cfm_steps import (
    MODEL,
    RIVAL_ADAPTER,
    SEED,
    SUBJECTS,
    VAE_SCALE,
    Encoders,
    Learner,
    Masked,
    Ordinary,
    OrdinaryCached,
    Pairs,
)
from nssm import CLOCKS, peak_bytes
from peft import LoraConfig
from run_options import clock_option
from torch import nn

from divrl_core.config_cfm import CfmConfig, ObjectiveConfig
from divrl_core.flow.path import interpolate
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.layout import pack, unpack
from divrl_core.models.lora import (
    add_lora,
    load_lora_state,
    lora_state,
    target_pattern,
)
from divrl_core.models.pocket_parts import build_transformer
from divrl_core.pocket.training_pairs import SIZE_PX

TOLERANCE = 1e-4
WARM_UP_STEPS = 2


@dataclass(frozen=True)
class Rivals:
    """The three steps on one model, with the same weights at the start."""

    masked: Masked
    ordinary: Ordinary
    cached: OrdinaryCached

    @classmethod
    def make(
        cls, adapter: FluxAdapter, encoders: Encoders, transformer: nn.Module, config: CfmConfig, pairs: Pairs
    ) -> Rivals:
        """Give each a copy of the transformer and one LoRA, whose B is not zero, so that it takes part."""
        copies = [deepcopy(transformer) for _ in range(2)]
        adapter.transformer = transformer
        lora = config.lora
        add_lora(transformer, lora.rank, lora.resolved_alpha, lora.targets, SEED)
        generator = torch.Generator().manual_seed(SEED)
        start = {
            name: torch.randn(value.shape, generator=generator) * 0.02 if "lora_B" in name else value
            for name, value in lora_state(transformer).items()
        }
        load_lora_state(transformer, start)
        settings = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.resolved_alpha,  # type: ignore[arg-type]
            init_lora_weights="gaussian",
            target_modules=target_pattern(lora.targets),
        )
        for copy in copies:
            copy.requires_grad_(False)
            copy.add_adapter(settings, adapter_name=RIVAL_ADAPTER)  # type: ignore[operator]
            copy.train()
            load_lora_state(copy, start, adapter=RIVAL_ADAPTER)
        rest = encoders, adapter.attention, config, pairs
        return cls(
            Masked(adapter, config, pairs), Ordinary(copies[0], *rest), OrdinaryCached(copies[1], *rest)
        )

    @property
    def by_name(self) -> dict[str, Learner]:
        """In the order of the table; the ratios are to the first."""
        return {"masked": self.masked, "ordinary": self.ordinary, "ordinary, cached": self.cached}

    @torch.no_grad()
    def deviation(self) -> float:
        """The largest difference of the target's prediction, from one noise and one time, over both rivals."""
        batch = self.masked.draw(0)
        rows, columns = batch.height // (2 * VAE_SCALE), batch.width // (2 * VAE_SCALE)
        ours, noise = self.masked.velocity(batch), unpack(batch.eps, rows, columns)
        worst = 0.0
        for rival in (self.ordinary, self.cached):
            inputs = rival.inputs(0)
            wide = rival.velocity(inputs, interpolate(inputs.target, noise, batch.t), batch.t)
            left = pack(wide[..., : inputs.target.shape[-1]])
            worst = max(worst, (left - ours).abs().max().item())
        return worst


@dataclass(frozen=True)
class Cost:
    """Seconds of a step in each repeat, peak bytes within a step, and bytes that stay between steps."""

    seconds: tuple[float, ...]
    peak_bytes: int
    standing_bytes: int


def measure(learners: Sequence[Learner], repeats: int, clock: Callable[[], float]) -> list[Cost]:
    """Times one step of each in every repeat, each repeat beginning with another; memory in one more step of each."""
    for learner in learners:
        for number in range(WARM_UP_STEPS):
            learner.step(number)
    gc.collect()
    seconds: list[list[float]] = [[] for _ in learners]
    for repeat in range(repeats):
        for turn in range(len(learners)):
            place = (repeat + turn) % len(learners)
            start = clock()
            learners[place].step(repeat)
            seconds[place].append(clock() - start)
    return [
        Cost(tuple(taken), peak_bytes(partial(learner.step, 0)), learner.standing_bytes)
        for learner, taken in zip(learners, seconds, strict=True)
    ]


def processor() -> str:
    """The CPU's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table_rows(model: str, batch: int, names: Iterable[str], costs: Sequence[Cost]) -> list[str]:
    """A line of the table for each step; ratios say how many times the masked step's cost it is."""
    first = costs[0]
    lines = []
    for name, cost in zip(names, costs, strict=True):
        seconds, total = median(cost.seconds), cost.peak_bytes + cost.standing_bytes
        cells = (
            model,
            str(batch),
            name,
            f"{seconds:.4f} ({min(cost.seconds):.4f}..{max(cost.seconds):.4f})",
            f"{seconds / median(first.seconds):.2f}",
            f"{cost.peak_bytes / 1e6:.1f}",
            f"{cost.peak_bytes / first.peak_bytes:.2f}",
            f"{cost.standing_bytes / 1e6:.1f}",
            f"{total / 1e6:.1f}",
            f"{total / (first.peak_bytes + first.standing_bytes):.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


@click.command()
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, metavar="COUNT")
@click.option("--repeats", type=click.IntRange(min=1), default=15, show_default=True, metavar="COUNT")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1, SUBJECTS * 12),
    multiple=True,
    default=(1, 8),
    show_default=True,
    metavar="PAIRS",
    help="Batch size; may be given several times.",
)
@click.option(
    "--width-heads",
    type=click.IntRange(min=1),
    metavar="HEADS",
    help="One more row: a random FLUX transformer of 128 x HEADS, at the first batch size (FLUX.1 has 24).",
)
@click.option(
    "--width-blocks",
    type=click.IntRange(min=1),
    nargs=2,
    default=(2, 4),
    show_default=True,
    metavar="DOUBLE SINGLE",
    help="Its blocks (FLUX.1 has 19 and 38).",
)
@clock_option(*CLOCKS)
@click.option("--quick", is_flag=True, help="At most 3 repeats.")
def main(
    threads: int,
    repeats: int,
    batches: tuple[int, ...],
    width_heads: int | None,
    width_blocks: tuple[int, int],
    clock: str,
    quick: bool,
) -> None:
    """Print time and memory of a masked training step against diffusers' ordinary pattern."""
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    repeats = min(repeats, 3) if quick else repeats
    cases: list[tuple[str, int | None, int]] = [(MODEL, None, batch) for batch in batches]
    if width_heads is not None:
        cases.append((f"random, {128 * width_heads} wide", width_heads, batches[0]))

    lora = CfmConfig().lora
    click.echo(
        f"A training step at {SIZE_PX} px, target and reference; float32; LoRA of rank {lora.rank} on {lora.targets}; "
        f"AdamW; no gradient checkpointing\nMedian {clock} seconds (min..max) of {repeats} repeats; {threads} "
        f"thread(s) of a machine with {os.cpu_count()} CPUs ({processor()}); torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}"
    )
    lines, deviations = [], []
    with tempfile.TemporaryDirectory() as folder:
        adapter = FluxAdapter.load(MODEL)
        pairs, encoders = Pairs.encode(adapter, Path(folder)), Encoders.load(adapter)
        for model, heads, batch in cases:
            adapter = FluxAdapter.load(MODEL)
            transformer = adapter.transformer
            if heads is not None:
                double, single = width_blocks
                transformer = build_transformer(
                    seed=SEED, heads=heads, double_blocks=double, single_blocks=single
                )
            objective = ObjectiveConfig(batch_size=batch, caption_dropout=0.0)
            config = CfmConfig(objective=objective)
            rivals = Rivals.make(adapter, encoders, transformer, config, pairs)
            deviations.append(rivals.deviation())
            if not deviations[-1] < TOLERANCE:
                raise click.ClickException(
                    f"{model}, batch {batch}: the predictions of the target differ by {deviations[-1]:.1e}, more than "
                    f"{TOLERANCE:.0e}: these steps are not the same computation"
                )
            costs = measure(list(rivals.by_name.values()), repeats, CLOCKS[clock])
            lines += table_rows(model, batch, rivals.by_name, costs)
    click.echo(
        f"Attention kernel of all: {adapter.attention}; with one noise and one time their predictions of the target "
        f"differ by {max(deviations):.1e} at most (max abs; {TOLERANCE:.0e} is an error)"
    )
    parts = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in encoders.sizes.items())
    cached, pictures = (size / 1e6 for size in pairs.sizes)
    click.echo(
        f"Encoders that the ordinary step keeps: {parts}, together {sum(encoders.sizes.values()) / 1e6:.2f} MB\n"
        f"Data of the {len(pairs.sized)} pairs, in no column: latents and captions {cached:.2f} MB, pictures "
        f"(ordinary) {pictures:.2f} MB\n"
        "times: as a multiple of the masked step; peak: within a step, beyond what stays; stays: weights, LoRA, "
        "moments, encoders\n"
    )
    click.echo("| model | batch | step | seconds | times | peak MB | times | stays MB | sum MB | times |")
    click.echo("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for line in lines:
        click.echo(line)


if __name__ == "__main__":
    main()
