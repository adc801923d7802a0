"""Seconds and bytes on the GPU, for benchmarks/full_size.py; without one memory is 0 and seconds are the host's."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class Timed:
    """What a piece of work took: seconds of each repeat, the most bytes beside what was there before, its result."""

    seconds: list[float]
    working: int
    made: Any


def synchronize() -> None:
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated() -> int:
    """Bytes allocated on the GPU now; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def free() -> None:
    """Give back what an earlier case left: compiled code, cycles of objects, blocks that the allocator holds."""
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def timed(work: Callable[[], Any], device: torch.device, repeats: int) -> Timed:
    """Do the work once to warm up, then `repeats` times by the clock."""
    made = work()
    seconds, working = [], 0
    for _ in range(repeats):
        synchronize()
        before, started = allocated(), time.perf_counter()
        with peak(device) as found:
            made = work()
        seconds.append(round(time.perf_counter() - started, 5))
        working = max(working, found[0] - before)
    return Timed(seconds=seconds, working=working, made=made)
