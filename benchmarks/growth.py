"""How time and memory of a group grow: with its size, with resolution, with references in the run and their tokens.

    python benchmarks/growth.py [--threads 1] [--repeats 3] [--clock wall] [--json FILE] [--chart PNG] [--quick]

The tiny Kontext (tiny_kontext.py), default settings (128 text tokens, gradient checkpointing, micro-batch 3), one thing
changed at a time. Rollout: sampling and decoding; training: the gradients of all trained steps and one optimizer step.
Time is the least of the repeats, which go through all points before any is measured again. Memory is the most bytes of
tensors alive at once beyond what was there before, counted in one more call from every storage's birth and death. The
exponent p of `cost ~ size^p` is a straight line fitted to the logarithms: 1 is linear, 0 no growth. In brackets stands
the greatest between two neighbouring sizes.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import click
import diffusers
import torch
import transformers
from accelerate import Accelerator
from cfm import processor
from nssm import CLOCKS
from run_options import run_options
from tiny_kontext import PAIR, SIZE_PX, NoiseReferences, make_policy, start_weights, write_pipeline
from torch import Tensor

from divrl_core.config import TrainConfig
from divrl_core.models.conditioning import Conditioning
from divrl_core.models.live_tensors import LiveTensors
from divrl_core.models.text import FULL_TEXT_TOKENS
from divrl_core.training.encoded_pairs import EncodedPairs
from divrl_core.training.judged import Judged
from divrl_core.training.placement import units_of_process
from divrl_core.training.processes import Processes
from divrl_core.training.references import PromptPair
from divrl_core.training.rollout import roll_out, sampling_plan
from divrl_core.training.stepper import make_stepper
from divrl_core.training.update import Learner

SMALL_GROUP = 3
MEASURES = ("encoding", "rollout", "training")


@dataclass(frozen=True)
class Given:
    """One conditioning for every pair: a reference of another size than the target's, which no run has as yet."""

    whole: Conditioning

    def conditioning(self, pairs: Sequence[PromptPair]) -> Conditioning:
        """As of `EncodedPairs`."""
        return self.whole


@dataclass
class Point:
    """One size of one thing: how to make it, and what it cost by measure (seconds and bytes)."""

    size: int
    group_size: int = SMALL_GROUP
    size_px: int = SIZE_PX
    references: int = 1
    reference_px: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """One thing that grows."""

    name: str
    points: tuple[Point, ...]


def all_series(*, quick: bool) -> tuple[Series, ...]:
    """What is measured; each begins with a small group of 3 samples at 128 px."""
    few = slice(0, 2 if quick else None)
    return (
        Series("samples in a group", tuple(Point(n, group_size=n) for n in (3, 6, 12, 24)[few])),
        Series(
            "tokens of target and reference, each",
            tuple(Point((px // 16) ** 2, size_px=px) for px in (64, 128, 192, 256)[few]),
        ),
        Series("references in the run", tuple(Point(n, references=n) for n in (1, 4, 16, 64)[few])),
        Series(
            "tokens of the reference alone",
            tuple(Point((px // 16) ** 2, reference_px=px) for px in (64, 128, 256, 384)[few]),
        ),
    )


class Group:
    """The product's functions on one point: encode, roll out, learn."""

    def __init__(self, folder: Path, start: dict[str, Tensor], config: TrainConfig, point: Point) -> None:
        self.config = replace(
            config, grpo=replace(config.grpo, group_size=point.group_size, groups_per_update=1)
        )
        self.point = point
        self.policy = make_policy(
            folder,
            start,
            config.lora,
            size_px=point.size_px,
            text_tokens=FULL_TEXT_TOKENS,
            checkpointing=config.model.gradient_checkpointing,
        )
        numbers = range(point.references)
        pairs = (PromptPair(f"{number}#0", f"{number}", f"{PAIR.prompt}, {number}") for number in numbers)
        self.references = NoiseReferences(tuple(pairs))
        self.plan = sampling_plan(config.rollout, self.policy.times(config.rollout.steps), seed=0, update=0)
        processes = Processes(Accelerator(cpu=True))
        self.learner = Learner(
            policy=self.policy,
            stepper=make_stepper(config.optim, self.policy.parameters, processes),
            config=self.config.grpo,
            processes=processes,
            after_step=lambda: None,
        )
        self.encode()
        self.roll_out()
        self.learn()  # moments and gradients exist from here on

    def encode(self) -> None:
        """Encode what a run with so many references is given."""
        if self.point.reference_px is None:
            self.encoded: EncodedPairs | Given = EncodedPairs(self.policy.adapter, self.point.size_px)
            self.encoded.encode(self.references, self.references.pairs, is_quiet=True)
            return
        picture = self.references.load("0", self.point.reference_px).image[None]
        size = self.point.size_px
        self.encoded = Given(self.policy.adapter.encode([PAIR.prompt], picture, target=(size, size)))

    def roll_out(self) -> None:
        """Sample and decode one group, as `gather_experience` does."""
        grpo, pair = self.config.grpo, self.references.pairs[0]
        units = units_of_process(0, 1, groups=1, group_size=grpo.group_size, micro_batch=grpo.micro_batch)
        judged = []
        for unit in units:
            count = len(unit.samples)
            given = self.encoded.conditioning([pair]).repeat(count)
            batch = roll_out(self.policy, self.plan, given, pair, unit, seed=0, update=0)
            self.policy.decode(batch.tokens)
            advantages = torch.tensor([1.0 if sample % 2 else -1.0 for sample in unit.samples])
            valid = torch.ones(count, dtype=torch.bool)
            judged.append(Judged(batch=batch.on_host(), advantages=advantages, valid=valid))
        self.judged = tuple(judged)

    def learn(self) -> None:
        """One optimizer step from the group."""
        self.learner.learn(self.plan, self.encoded, self.judged, on_progress=lambda made: None)  # type: ignore[arg-type]

    def calls(self) -> dict[str, Callable[[], None]]:
        """What is measured, in order."""
        return dict(zip(MEASURES, (self.encode, self.roll_out, self.learn), strict=True))


def measure(groups: Sequence[Group], repeats: int, clock: Callable[[], float]) -> None:
    """Fill in the points' costs; sizes take turns, so that a busy machine hits all alike."""
    for _ in range(repeats):
        for group in groups:
            for name, call in group.calls().items():
                begun = clock()
                call()
                seconds = clock() - begun
                group.point.seconds[name] = min(seconds, group.point.seconds.get(name, math.inf))
    for group in groups:
        for name, call in group.calls().items():
            with LiveTensors() as live:
                call()
            group.point.peak_bytes[name] = live.peak


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p of `cost ~ size^p` by least squares on the logarithms."""
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(costs, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / x.square().sum())


def steepest(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The greatest exponent between neighbouring sizes: a fit alone could hide a bend behind a constant part."""
    return max(map(exponent, pairwise(sizes), pairwise(costs)))


def table(series: Sequence[Series]) -> list[str]:
    """A row for each point, and one with the exponents for each thing that grows."""
    lines = [
        "| what grows | size | encoding s | rollout s | training s | encoding MB | rollout MB | training MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in series:
        for point in one.points:
            seconds = [f"{point.seconds[name]:.3f}" for name in MEASURES]
            peaks = [f"{point.peak_bytes[name] / 1e6:.1f}" for name in MEASURES]
            lines.append(f"| {' | '.join([one.name, str(point.size), *seconds, *peaks])} |")
        sizes = [point.size for point in one.points]
        costs = [
            [getattr(point, kind)[name] for point in one.points]
            for kind in ("seconds", "peak_bytes")
            for name in MEASURES
        ]
        powers = [f"{exponent(sizes, cost):.2f} ({steepest(sizes, cost):.2f})" for cost in costs]
        lines.append(f"| {' | '.join([one.name, 'exponent (steepest)', *powers])} |")
    return lines


def draw(series: Sequence[Series], path: Path) -> None:
    """A chart of time (above) and memory (below), both axes logarithmic, with a linear guide."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(series), figsize=(3.4 * len(series), 6), squeeze=False)
    for column, one in enumerate(series):
        sizes: list[float] = [point.size for point in one.points]
        for row, (kind, unit) in enumerate((("seconds", 1.0), ("peak_bytes", 1e6))):
            axis = axes[row][column]
            for name in MEASURES:
                costs = [getattr(point, kind)[name] / unit for point in one.points]
                axis.plot(sizes, costs, marker="o", label=f"{name}: {exponent(sizes, costs):.2f}")
            lowest = min(getattr(one.points[0], kind)[name] / unit for name in MEASURES)
            guide = [lowest * size / sizes[0] for size in sizes]
            axis.plot(sizes, guide, color="grey", linestyle=":", linewidth=1, label="linear")
            axis.set(xscale="log", yscale="log", xticks=sizes, xticklabels=[str(size) for size in sizes])
            axis.minorticks_off()
            axis.legend(fontsize=7, title="exponent", title_fontsize=7)
        axes[1][column].set_xlabel(one.name)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("peak of tensors, MB")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@click.command()
@run_options(*CLOCKS, repeats=3)
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures here."
)
@click.option(
    "--chart", type=click.Path(dir_okay=False, path_type=Path), help="Draw the growth into this PNG."
)
@click.option("--quick", is_flag=True, help="Two sizes of each, one repeat.")
def main(
    threads: int, repeats: int, clock: str, json_file: Path | None, chart: Path | None, quick: bool
) -> None:
    """Print how time and memory of rollout and training grow, with exponents."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    repeats = 1 if quick else repeats
    config, series = TrainConfig.explore(), all_series(quick=quick)
    with tempfile.TemporaryDirectory() as name:
        folder = write_pipeline(Path(name))
        start = start_weights(folder, config.lora)
        for one in series:
            measure([Group(folder, start, config, point) for point in one.points], repeats, CLOCKS[clock])
    header = (
        f"A group of {SMALL_GROUP} x {config.rollout.steps} steps at {SIZE_PX} px where nothing else is said; "
        f"{FULL_TEXT_TOKENS} text tokens, micro-batch {config.grpo.micro_batch}, float32; least {clock} seconds of "
        f"{repeats} repeats; {threads} thread(s) of a machine with {os.cpu_count()} CPUs ({processor()}); "
        f"torch {torch.__version__}, diffusers {diffusers.__version__}"
    )
    click.echo(f"{header}\n")
    for line in table(series):
        click.echo(line)
    if chart is not None:
        draw(series, chart)
    if json_file is not None:
        found = {
            one.name: [
                {"size": point.size, "seconds": point.seconds, "peak_bytes": point.peak_bytes}
                for point in one.points
            ]
            for one in series
        }
        json_file.write_text(json.dumps({"header": header, "series": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
