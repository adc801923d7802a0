"""What nSSM's closed form saves against explicit matrices: time, memory and accuracy, all from one run.

    python benchmarks/nssm.py [--threads 1] [--repeats 7] [--clock wall] [--quick]

One row scores a group of pictures against one reference, the reference's own share included. Two explicit
rivals: `full` builds both N x N matrices for every picture and gathers the masked entries (the formula as it
stands), `lean` takes the masked rows first and the reference's matrix once. Time is the median of the
repeats; memory is the peak of all tensors alive during one call, counted by torch.profiler from every
allocation. Deviation is from the explicit formula in float64.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import click
import torch
from run_options import run_options
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from divrl_core.rewards.nssm import nssm, reference_structure
from divrl_core.rewards.similarity import normalise, self_similarity, to_cells

SIZES = ((12, 112, 0.3), (12, 112, 1.0), (24, 384, 0.3), (24, 384, 1.0), (48, 384, 0.3), (48, 384, 1.0))
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
QUICK_SIZES = ((12, 112, 0.3), (24, 384, 0.3), (24, 384, 1.0))


@dataclass(frozen=True)
class Case:
    """A group of pictures and its reference: features (B, C, h, w) and (C, h, w), mask bool (h, w)."""

    generated: Tensor
    reference: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Cost:
    """Median seconds of a call, peak bytes of its tensors, and its scores (B,)."""

    seconds: float
    peak_bytes: int
    scores: Tensor


def closed_form(case: Case) -> Tensor:
    """The product's own way: sums of C x C or n x n products."""
    return nssm(case.generated, reference_structure(case.reference, case.mask))


def explicit_full(case: Case) -> Tensor:
    """The formula as it stands, pair by pair: both N x N matrices, then the masked entries."""
    inside = case.mask.flatten()
    entries = (inside[:, None] & inside[None]) & ~torch.eye(len(inside), dtype=torch.bool)
    return torch.stack(
        [
            _one_minus_pearson(
                self_similarity(_cells(picture))[entries], self_similarity(_cells(case.reference))[entries]
            )
            for picture in case.generated
        ]
    )


def explicit_lean(case: Case) -> Tensor:
    """Explicit matrices of the masked rows only, the reference's once for its group."""
    inside = case.mask.flatten()
    count = int(inside.sum())
    entries = ~torch.eye(count, dtype=torch.bool)
    reference = self_similarity(_cells(case.reference)[inside])[entries]
    return torch.stack(
        [
            _one_minus_pearson(self_similarity(_cells(picture)[inside])[entries], reference)
            for picture in case.generated
        ]
    )


def make_case(grid: int, channels: int, share: float, group_size: int) -> Case:
    """Smooth features around a common direction, as backbones give them, and a round object in the middle."""
    generator = torch.Generator().manual_seed(grid * channels)
    coarse = torch.randn(group_size + 1, channels, grid // 4, grid // 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(grid, grid), mode="bilinear")
    features = smooth + torch.randn(1, channels, 1, 1, generator=generator)
    axis = torch.arange(grid) - (grid - 1) / 2
    distance = axis[:, None].square() + axis[None].square()
    mask = distance <= distance.flatten().sort().values[round(share * grid * grid) - 1]
    return Case(features[1:], features[0], mask)


def measure(calls: Sequence[Callable[[], Tensor]], repeats: int, clock: Callable[[], float]) -> list[Cost]:
    """Times rival calls in turns, so that a busy machine hits all alike; memory in one more call of each."""
    scores = [call() for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, taken in zip(calls, seconds, strict=True):
            start = clock()
            call()
            taken.append(clock() - start)
    return [
        Cost(median(taken), peak_bytes(call), score)
        for call, taken, score in zip(calls, seconds, scores, strict=True)
    ]


def peak_bytes(call: Callable[[], Tensor]) -> int:
    """The most bytes of tensors alive at once during a call, from the profiler's record of allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    alive = peak = 0
    for event in events:
        if event["name"] == "[memory]":
            alive += event["args"]["Bytes"]
            peak = max(peak, alive)
    return peak


def _cells(features: Tensor) -> Tensor:
    return to_cells(normalise(features, dim=0))


def _one_minus_pearson(first: Tensor, second: Tensor) -> Tensor:
    first, second = first - first.mean(), second - second.mean()
    pearson: Tensor = (first @ second) / (first.norm() * second.norm())
    return 1 - pearson


def _row(
    grid: int, channels: int, share: float, group_size: int, repeats: int, clock: Callable[[], float]
) -> str:
    case = make_case(grid, channels, share, group_size)
    fine = Case(case.generated.double(), case.reference.double(), case.mask)
    rivals = [partial(call, case) for call in (closed_form, explicit_full, explicit_lean)]
    fine_rivals = [partial(call, fine) for call in (closed_form, explicit_full)]
    closed, full, lean, closed_64, full_64 = measure([*rivals, *fine_rivals], repeats, clock)
    deviation = (closed.scores - full_64.scores).abs().max()
    deviation_64 = (closed_64.scores - full_64.scores).abs().max()
    return (
        f"{grid * grid:5d} {int(case.mask.sum()):5d} {channels:4d}"
        f" | {closed.seconds * 1e3:8.1f} {full.seconds * 1e3:8.1f} {lean.seconds * 1e3:8.1f}"
        f" {full.seconds / closed.seconds:6.1f}x {lean.seconds / closed.seconds:6.1f}x"
        f" {full_64.seconds / closed_64.seconds:8.1f}x"
        f" | {closed.peak_bytes / 1e6:7.1f} {full.peak_bytes / 1e6:7.1f} {lean.peak_bytes / 1e6:7.1f}"
        f" {full.peak_bytes / closed.peak_bytes:6.2f}x {lean.peak_bytes / closed.peak_bytes:6.2f}x"
        f" | {deviation:8.1e} {deviation_64:8.1e}"
    )


@click.command()
@run_options(*CLOCKS, repeats=7)
@click.option("--group-size", type=click.IntRange(min=1), default=21, show_default=True, metavar="PICTURES")
@click.option("--quick", is_flag=True, help="Three sizes instead of six, at most 3 repeats.")
def main(threads: int, repeats: int, clock: str, group_size: int, quick: bool) -> None:
    """Print time and memory of nSSM's closed form against explicit matrices over N and C."""
    torch.set_num_threads(threads)
    repeats = min(repeats, 3) if quick else repeats
    click.echo(
        f"nSSM of {group_size} pictures against one reference; median {clock} time of {repeats} repeats; "
        f"{threads} thread(s) of a machine with {os.cpu_count()} CPUs; torch {torch.__version__}"
    )
    click.echo(
        "N cells on the grid, n in the mask, C channels; full/lean: explicit matrices, as a ratio to closed"
    )
    click.echo(
        "    N     n    C |  closed     full  lean ms    full    lean  f64 full"
        " |  closed    full lean MB    full    lean |  dev f32  dev f64"
    )
    with torch.inference_mode():
        for grid, channels, share in QUICK_SIZES if quick else SIZES:
            click.echo(_row(grid, channels, share, group_size, repeats, CLOCKS[clock]))


if __name__ == "__main__":
    main()
