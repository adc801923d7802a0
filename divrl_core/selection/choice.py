"""Who is kept: the gate first, then the best reward or the most diverse set.

Candidates fall into three ranks: those that pass the gate (VSM >= s), those that fail it, and those whose scores are
undefined. A lower rank only fills up what the higher ones leave free, the nearest to the gate first, and is marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..rewards.gate import passes
from .diverse import spread_set
from .pruning import check_counts, identity_bar

Mode = Literal["reward", "diverse set"]
MODES: tuple[Mode, ...] = ("reward", "diverse set")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What choosing needs of B candidates. NaN = undefined.

    nssm, vsm: (B,). matches: (B,), those behind VSM; a VSM over few of them says little. distances: (B, B) between
    their structures, from `structural_distances`; only a diverse set asks for them.
    """

    nssm: Tensor
    vsm: Tensor
    matches: Tensor
    distances: Tensor | None = None

    def __post_init__(self) -> None:
        """All parts speak of the same candidates."""
        count = len(self.nssm)
        others = [self.vsm.shape == (count,), self.matches.shape == (count,)]
        if not all(others) or (self.distances is not None and self.distances.shape != (count, count)):
            raise ValueError(
                f"measures must be of the same candidates: nssm {tuple(self.nssm.shape)}, vsm {tuple(self.vsm.shape)}, "
                f"matches {tuple(self.matches.shape)}, "
                f"distances {None if self.distances is None else tuple(self.distances.shape)}"
            )

    @property
    def is_defined(self) -> Tensor:
        """Bool (B,): nSSM and VSM are defined, and so are the distances to all others of which they are."""
        return self._comparable(~(self.nssm.isnan() | self.vsm.isnan()))

    @property
    def has_structure(self) -> Tensor:
        """Bool (B,): nSSM is defined, and so are the distances to all others of which it is."""
        return self._comparable(~self.nssm.isnan())

    def _comparable(self, defined: Tensor) -> Tensor:
        if self.distances is None:
            return defined
        unknown = self.distances.isnan() & defined[:, None] & defined[None, :]
        return defined & ~unknown.any(dim=1)


@dataclass(frozen=True)
class Choice:
    """The candidates kept, the best first, and which of them passed the gate."""

    kept: tuple[int, ...]
    passed: tuple[bool, ...]

    @property
    def shortfall(self) -> int:
        """How many of the kept did not pass."""
        return sum(not flag for flag in self.passed)


def choose(measured: Measured, *, mode: Mode, keep: int, gate: float) -> Choice:
    """The final choice: `keep` candidates, every one that passes before any that does not.

    Among those that pass: "reward" takes the highest R2, which is their nSSM (eq. 9 takes nothing from them); "diverse
    set" takes the set that is farthest from the reference and within itself (`spread_set`).

    Raises ValueError for a keep or mode that cannot be.
    """
    check_counts(len(measured.nssm), keep)
    is_defined = measured.is_defined
    is_passing = is_defined & passes(measured.nssm, measured.vsm, gate=gate)
    passing, failing = _indices(is_passing), _indices(is_defined & ~is_passing)
    ordered = _best(measured, passing, mode, min(keep, len(passing))) if passing else []
    nearest = sorted(failing, key=lambda index: float(measured.vsm[index]), reverse=True)
    kept = [*ordered, *nearest, *_indices(~is_defined)][:keep]
    return Choice(tuple(kept), tuple(index in passing for index in kept))


def survivors(measured: Measured, *, mode: Mode, count: int, gate: float, t: float) -> list[int]:
    """Who goes on at time t: `count` candidates by structure, clear failures of identity last; in rising order.

    A clear failure has a VSM below `identity_bar(gate, t)`. An undefined VSM says nothing yet (a blurred picture
    matches nothing) and is no failure; an undefined nSSM comes after everything.
    """
    check_counts(len(measured.nssm), count)
    has_structure = measured.has_structure
    is_failing = measured.vsm < identity_bar(gate, t)  # False where undefined
    hopeful = _indices(has_structure & ~is_failing)
    failing = _indices(has_structure & is_failing)
    ordered = _best(measured, hopeful, mode, min(count, len(hopeful))) if hopeful else []
    nearest = sorted(failing, key=lambda index: float(measured.vsm[index]), reverse=True)
    return sorted([*ordered, *nearest, *_indices(~has_structure)][:count])


def _best(measured: Measured, candidates: list[int], mode: Mode, count: int) -> list[int]:
    if mode == "reward":
        return sorted(candidates, key=lambda index: float(measured.nssm[index]), reverse=True)[:count]
    if mode != "diverse set":
        raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    if measured.distances is None:
        raise ValueError("a diverse set is chosen by distances, which were not measured")
    rows = torch.tensor(candidates)
    distances = measured.distances[rows][:, rows]
    return [candidates[index] for index in spread_set(distances, measured.nssm[rows], count)]


def _indices(flags: Tensor) -> list[int]:
    return [int(index) for index in flags.nonzero().flatten()]
