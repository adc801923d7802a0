"""What sharing the backbone's passes saves: the rewards of a group against scoring each pair alone, twice; one run.

    python benchmarks/rewards.py [--threads 1] [--repeats 7] [--clock wall] [--json FILE] [--quick]

A group of 21 pictures of one reference, backbone lite0, the gated reward (it needs nSSM and VSM). The rows:

- `ours`: as a run does it: the reference's features once, the pictures by micro-batch, one pass for both measures;
- `ours, reference kept`: the same when the reference is known from an earlier update;
- `pair by pair`: each picture with its reference through the backbone for nSSM, and both once more for VSM; the
  measures themselves are the product's own, so that only passes differ.

As in a run, a micro-batch is decoded by a VAE of the pocket's architecture before it is scored, for all rows alike and
off the clock: what C's allocator keeps or gives back in between decides on page faults, up to a third of these times.

Passes are counted by a hook on the network's first layer: calls, and pictures in all calls. They take turns, each
repeat beginning with another; before anything is timed all must give the same scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from cfm import processor
from nssm import CLOCKS
from run_options import run_options
from tiny_kontext import PAIR, SIZE_PX, NoiseReferences
from torch import Tensor, nn

from divrl_core.config import GrpoConfig, RewardConfig
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.pocket_parts import LATENT_CHANNELS, build_vae
from divrl_core.rewards.nssm import nssm, reference_structure
from divrl_core.rewards.score import match_cells, reference_features
from divrl_core.rewards.similarity import resize_mask
from divrl_core.training.placement import sample_parts
from divrl_core.training.rewarding import Rewarder

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Group:
    """Pictures (B, 3, H, W) in [0, 1] of one reference, as they come out of sampling."""

    pictures: Tensor
    references: NoiseReferences = NoiseReferences()

    @classmethod
    def make(cls, size: int) -> Group:
        """The reference under more and more noise, shifted: neither equal to it nor strangers to it."""
        reference = NoiseReferences().load(PAIR.reference_id, SIZE_PX).image
        generator = torch.Generator().manual_seed(3)
        pictures = [
            (
                reference.roll(3 * place, dims=2)
                + 0.02 * place * torch.randn(reference.shape, generator=generator)
            )
            for place in range(size)
        ]
        return cls(torch.stack(pictures).clamp(0, 1))


@dataclass(frozen=True)
class Scored:
    """nSSM and VSM of the group, each (B,)."""

    nssm: Tensor
    vsm: Tensor

    def distance(self, other: Scored) -> float:
        """The largest difference; infinite where one is undefined and the other is not."""
        mine, theirs = torch.stack([self.nssm, self.vsm]), torch.stack([other.nssm, other.vsm])
        if not torch.equal(mine.isnan(), theirs.isnan()):
            return float("inf")
        return (mine - theirs).nan_to_num().abs().max().item()


class Stopwatch:
    """Seconds spent inside `with` blocks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = clock, 0.0

    def __enter__(self) -> None:
        self._begun = self.clock()

    def __exit__(self, *error: object) -> None:
        self.seconds += self.clock() - self._begun


@dataclass(frozen=True)
class MicroBatches:
    """The group in micro-batches, each handed out after as many pictures were decoded."""

    group: Group
    size: int
    vae: nn.Module

    def __iter__(self) -> Iterator[Tensor]:
        for rows in sample_parts(len(self.group.pictures), self.size):
            self.vae.decode(torch.zeros(len(rows), LATENT_CHANNELS, SIZE_PX // 8, SIZE_PX // 8))
            yield self.group.pictures[list(rows)]


def ours(rewarder: Rewarder, batches: MicroBatches, watch: Stopwatch) -> Scored:
    """The product's rewards, micro-batch by micro-batch."""
    parts = []
    for pictures in batches:
        with watch:
            parts.append(rewarder.reward(pictures, batches.group.references, PAIR))
    return Scored(torch.cat([part.nssm for part in parts]), torch.cat([part.vsm for part in parts]))


def pair_by_pair(backbone: Lite0Backbone, batches: MicroBatches, watch: Stopwatch) -> Scored:
    """Two functions of (picture, reference), each of which encodes what it is given."""
    reference = batches.group.references.load(PAIR.reference_id, SIZE_PX)
    settings = backbone.settings.score

    def structure_score(picture: Tensor) -> Tensor:
        of_picture, of_reference = backbone.extract(picture[None]), backbone.extract(reference.image[None])
        side = of_reference.grid[0] // settings.nssm_pool
        mask = resize_mask(reference.mask, (side, side))
        return nssm(
            of_picture.structure,
            reference_structure(of_reference.structure[0], mask, pool=settings.nssm_pool),
        )

    def identity_score(picture: Tensor) -> Tensor:
        of_picture, of_reference = backbone.extract(picture[None]), backbone.extract(reference.image[None])
        return match_cells(
            of_picture, reference_features(of_reference, reference.mask, settings), settings
        ).score

    structure, identity = [], []
    for pictures in batches:
        with watch:
            structure += [structure_score(picture) for picture in pictures]
            identity += [identity_score(picture) for picture in pictures]
    return Scored(torch.cat(structure), torch.cat(identity))


@dataclass
class Passes:
    """How often a network was called, and with how many pictures in all."""

    calls: int = 0
    pictures: int = 0


@contextmanager
def counted(first_layer: nn.Module) -> Iterator[Passes]:
    """Count the calls of a network's first layer inside this block."""
    passes = Passes()

    def count(module: nn.Module, inputs: Any, output: Tensor) -> None:
        passes.calls += 1
        passes.pictures += len(output)

    hook = first_layer.register_forward_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


@dataclass
class Row:
    """A way to score the group, and what it took."""

    name: str
    call: Callable[[Stopwatch], Scored]
    passes: Passes = field(default_factory=Passes)
    seconds: list[float] = field(default_factory=list)


def measure(rows: Sequence[Row], repeats: int, clock: Callable[[], float], first_layer: nn.Module) -> float:
    """Fill in passes and seconds; the largest difference of a score from the first row's."""
    scored = []
    for row in rows:
        with counted(first_layer) as row.passes:
            scored.append(row.call(Stopwatch(clock)))
    for repeat in range(repeats):
        for turn in range(len(rows)):
            row = rows[(repeat + turn) % len(rows)]
            watch = Stopwatch(clock)
            row.call(watch)
            row.seconds.append(watch.seconds)
    return max(scored[0].distance(other) for other in scored[1:])


@click.command()
@run_options(*CLOCKS, repeats=7)
@click.option("--group-size", type=click.IntRange(min=2), default=21, show_default=True, metavar="PICTURES")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all seconds here."
)
@click.option("--quick", is_flag=True, help="At most 2 repeats.")
def main(
    threads: int, repeats: int, group_size: int, clock: str, json_file: Path | None, quick: bool
) -> None:
    """Print backbone passes and time of a group's rewards against scoring each pair alone, twice."""
    torch.set_num_threads(threads)
    repeats = min(repeats, 2) if quick else repeats
    micro_batch = GrpoConfig().micro_batch
    backbone, group = Lite0Backbone.load(), Group.make(group_size)
    config = RewardConfig(kind="gated")
    kept = Rewarder(config, backbone, size_px=SIZE_PX)
    kept.reference(group.references, PAIR.reference_id)
    batches = MicroBatches(group, micro_batch, build_vae(seed=1).eval())
    rows = [
        Row("pair by pair", lambda watch: pair_by_pair(backbone, batches, watch)),
        Row("ours", lambda watch: ours(Rewarder(config, backbone, size_px=SIZE_PX), batches, watch)),
        Row("ours, reference kept", lambda watch: ours(kept, batches, watch)),
    ]
    with torch.no_grad():
        distance = measure(rows, repeats, CLOCKS[clock], backbone.network.conv_stem)
    if not distance < TOLERANCE:
        raise click.ClickException(
            f"scores differ by {distance:.1e}, more than {TOLERANCE:.0e}: these are not the same computation"
        )
    header = (
        f"Rewards of {group_size} pictures of one reference, {SIZE_PX} px, micro-batch {micro_batch}; "
        f"{backbone.source}; {clock} seconds of {repeats} repeats; {threads} thread(s) of a machine with "
        f"{os.cpu_count()} CPUs ({processor()}); torch {torch.__version__}"
    )
    click.echo(f"{header}\nScores differ by {distance:.1e} ({TOLERANCE:.0e} is an error)\n")
    click.echo(
        "| | passes | pictures in them | ratio | seconds: least, median, greatest | ratio to pair by pair |"
    )
    click.echo("| --- | ---: | ---: | ---: | ---: | ---: |")
    first = rows[0]
    for row in rows:
        paired = [mine / theirs for mine, theirs in zip(row.seconds, first.seconds, strict=True)]
        cells = (
            row.name,
            str(row.passes.calls),
            str(row.passes.pictures),
            f"{row.passes.pictures / first.passes.pictures:.2f}",
            f"{min(row.seconds):.3f} {median(row.seconds):.3f} {max(row.seconds):.3f}",
            f"{median(paired):.2f} ({min(paired):.2f}..{max(paired):.2f})",
        )
        click.echo(f"| {' | '.join(cells)} |")
    if json_file is not None:
        found = {
            row.name: {"calls": row.passes.calls, "pictures": row.passes.pictures, "seconds": row.seconds}
            for row in rows
        }
        json_file.write_text(
            json.dumps({"header": header, "distance": distance, "rows": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
