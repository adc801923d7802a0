"""Which process makes which samples: derived from group size, groups and processes, for any count of each."""

from __future__ import annotations

from itertools import pairwise


def sample_parts(group_size: int, at_most: int) -> tuple[tuple[int, ...], ...]:
    """The samples 0..group_size - 1 in the fewest runs of at most `at_most`, whose lengths differ by one at most.

    What the parts are depends on these two numbers alone, so that a sample meets the same batch shape however many
    processes there are.
    """
    count = -(-group_size // at_most)
    bounds = [group_size * part // count for part in range(count + 1)]
    return tuple(tuple(range(start, stop)) for start, stop in pairwise(bounds))
