"""Which process makes which samples: derived from group size, groups and processes, for any count of each.

A unit is what goes through the model in one forward. What the units are does not depend on the number of processes, so
a sample meets the same batch shape however many there are; processes only share the units out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class Unit:
    """Samples of one group that go through the model together.

    is_stand_in: made only because the other processes have one more to make and wait for each other in every forward;
    nothing is learned from it.
    """

    group: int
    samples: tuple[int, ...]
    is_stand_in: bool = False


def even_runs(items: Sequence[Item], count: int) -> tuple[tuple[Item, ...], ...]:
    """The items in `count` runs, in order, whose lengths differ by one at most; there may be empty ones."""
    bounds = [len(items) * part // count for part in range(count + 1)]
    return tuple(tuple(items[start:stop]) for start, stop in pairwise(bounds))


def sample_parts(group_size: int, at_most: int) -> tuple[tuple[int, ...], ...]:
    """The samples 0..group_size - 1 in the fewest runs of at most `at_most`, whose lengths differ by one at most."""
    return even_runs(range(group_size), -(-group_size // at_most))


def share_of(group: int, groups: int, shares: int) -> int:
    """The share of the update, one for each optimizer step, that a group belongs to: whole groups, in order."""
    return group * shares // groups


def units_of_process(
    index: int,
    processes: int,
    *,
    groups: int,
    group_size: int,
    micro_batch: int,
    shares: int = 1,
    whole_groups: bool = False,
    in_lockstep: bool = False,
) -> tuple[Unit, ...]:
    """What process `index` of `processes` makes of an update, in order.

    Every share is spread over all processes, so that none idles while another learns from it.

    Args:
        groups, group_size, micro_batch: of the update; any numbers.
        shares: optimizer steps made from the update.
        whole_groups: keep the samples of a group in one process (for a reward that judges groups).
        in_lockstep: give every process as many units as the fullest has, by stand-ins.
    """
    parts = sample_parts(group_size, micro_batch)
    mine: list[Unit] = []
    for share in range(shares):
        chosen = [group for group in range(groups) if share_of(group, groups, shares) == share]
        units = [[Unit(group, samples) for samples in parts] for group in chosen]
        blocks = units if whole_groups else [[unit] for group in units for unit in group]
        spread = [[unit for block in run for unit in block] for run in even_runs(blocks, processes)]
        mine += spread[index]
        if in_lockstep and blocks:
            missing = max(map(len, spread)) - len(spread[index])
            mine += [replace(blocks[0][0], is_stand_in=True)] * missing
    return tuple(mine)


def turns(
    count: int, index: int, processes: int, *, in_lockstep: bool = False
) -> tuple[tuple[int, bool], ...]:
    """The numbers of 0..count - 1 that a process takes, one after the other in turn, each with whether it stands in.

    In lockstep every process takes equally many; number 0 stands in for what is missing.
    """
    own = [(number, False) for number in range(index, count, processes)]
    missing = -(-count // processes) - len(own) if in_lockstep else 0
    return (*own, *[(0, True)] * missing)
