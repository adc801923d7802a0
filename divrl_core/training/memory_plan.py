"""The memory of a run by part and by phase, before anything is loaded.

A run goes through phases that hold different things: encode (text encoders and VAE, no transformer yet), sample, train,
evaluate. The peak is the largest of them. Persistent tensors are counted exactly, activations and working memory as the
real code makes them (`transformer_trace`); an allocator's fragments and the CUDA context are left to the margin
(`cards`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from .plan_inputs import Workload
from .plan_parts import Phase, Place, device_parts, host_parts

PHASES: tuple[Phase, ...] = ("encode", "sample", "train", "evaluate")


@dataclass(frozen=True, kw_only=True)
class MemoryRow:
    """One part: bytes in each phase that holds it, and where it lies."""

    name: str
    place: Place
    bytes: Mapping[Phase, int]
    note: str = ""

    @property
    def most(self) -> int:
        """Bytes where it is largest."""
        return max(self.bytes.values(), default=0)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """All parts of one process."""

    rows: tuple[MemoryRow, ...]
    device: Literal["cpu", "cuda"]

    def total(self, phase: Phase, place: Place) -> int:
        """Bytes at one place in one phase."""
        return sum(row.bytes.get(phase, 0) for row in self.rows if row.place == place)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that the run goes through, in order."""
        return tuple(phase for phase in PHASES if any(phase in row.bytes for row in self.rows))

    @property
    def peak_phase(self) -> Phase:
        """The phase that needs most of the device."""
        return max(self.phases, key=self._needed)

    @property
    def peak(self) -> int:
        """The most bytes on the device at once (on a CPU, where device and host are one: of both)."""
        return self._needed(self.peak_phase)

    @property
    def host_peak(self) -> int:
        """The most bytes in host memory, beside the interpreter and the libraries."""
        return max(self.total(phase, "host") for phase in self.phases)

    def _needed(self, phase: Phase) -> int:
        host = self.total(phase, "host") if self.device == "cpu" else 0
        return self.total(phase, "device") + host


def plan_memory(load: Workload, *, is_quick: bool = False) -> MemoryPlan:
    """The memory of one process of the run.

    is_quick: activations by a straight line through two batches traced before, for a search over many settings.
    Raises ValueError for settings that the model cannot have (more offloaded blocks than it has, a bad size).
    """
    rows = [*_rows(device_parts(load, is_quick=is_quick), "device"), *_rows(host_parts(load), "host")]
    return MemoryPlan(rows=tuple(rows), device=load.device)


def _rows(parts: Iterator[tuple[str, Mapping[Phase, int], str]], place: Place) -> Iterator[MemoryRow]:
    for name, sizes, note in parts:
        if any(sizes.values()):
            yield MemoryRow(name=name, place=place, bytes=sizes, note=note)
