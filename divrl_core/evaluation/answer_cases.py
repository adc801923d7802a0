"""Pictures of one change each, to ask a measure what it answers to: true renders beside a reference.

Every picture stands on another floor than its reference, as a prompt would have it.

- copy: nothing else has changed
- shift: moved by a tenth of the frame
- scale: four fifths of the size
- view: seen from another side, joints as they were
- joint: seen from the same side, one arm (wing, ear) raised or lowered
- pose: another side and other joints
- mirror: the copy, left and right exchanged
- recolour: the copy in other colours
- pattern: the copy with its body in another pattern of the same colours
- erased half: of the copy half of the figure is painted over with its floor
- other figure: of another plan, anywhere

What a reward should do with a change, `WANTED`: pay it, let it be (no loss, no gain), or punish it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..pocket.figures import BACKGROUNDS, STANCES, Identity, Structure, sample_identity, sample_structure
from ..pocket.render import Render, render
from .calibration_cases import CalibrationCase, other_plan, repainted, repatterned, to_tensor

Wanted = Literal["pay", "let be", "punish"]

WANTED: Mapping[str, Wanted] = MappingProxyType(
    {
        "copy": "let be",
        "shift": "let be",
        "scale": "let be",
        "mirror": "let be",
        "view": "pay",
        "joint": "pay",
        "pose": "pay",
        "recolour": "punish",
        "pattern": "punish",
        "erased half": "punish",
        "other figure": "punish",
    }
)
SHIFT, SCALE = 0.1, 0.8


def answer_cases(count: int, *, seed: int, held_out: bool = True) -> Iterator[CalibrationCase]:
    """Cases figure by figure, `others` by the names of `WANTED`; a pure function of its arguments."""
    for index in range(count):
        yield _case(np.random.default_rng([seed, index, int(held_out), 7]), held_out)


def _case(rng: np.random.Generator, held_out: bool) -> CalibrationCase:
    identity, structure = sample_identity(rng, held_out=held_out), sample_structure(rng)
    names = list(BACKGROUNDS)
    floor, other_floor = (names[index] for index in rng.choice(len(names), size=2, replace=False))
    reference, copy = render(identity, structure, floor), render(identity, structure, other_floor)

    def drawn(figure: Identity, stance: Structure) -> Tensor:
        return to_tensor(render(figure, stance, other_floor).image)

    across = float(rng.choice([-SHIFT, SHIFT]))
    turned, raised = _turned(rng, structure), _raised(rng, structure)
    others = {
        "copy": to_tensor(copy.image),
        "shift": drawn(identity, replace(structure, shift_x=structure.shift_x + across)),
        "scale": drawn(identity, replace(structure, scale=SCALE * structure.scale)),
        "mirror": to_tensor(np.ascontiguousarray(copy.image[:, ::-1])),
        "view": drawn(identity, turned),
        "joint": drawn(identity, raised),
        "pose": drawn(identity, _raised(rng, turned)),
        "recolour": drawn(repainted(rng, identity), structure),
        "pattern": drawn(repatterned(rng, identity), structure),
        "erased half": _half_erased(rng, copy, identity, structure, other_floor),
        "other figure": drawn(other_plan(rng, identity, held_out), sample_structure(rng)),
    }
    return CalibrationCase(
        reference=to_tensor(reference.image), mask=torch.from_numpy(reference.mask), others=others
    )


def _turned(rng: np.random.Generator, structure: Structure) -> Structure:
    """Seen from another of the world's three sides, at least 45 degrees away."""
    sides = sorted({stance.azimuth for stance in STANCES})
    away = [side for side in sides if abs(side - structure.azimuth) > 45]
    return replace(structure, azimuth=float(away[rng.integers(len(away))]))


def _raised(rng: np.random.Generator, structure: Structure) -> Structure:
    """One of the two limbs up if it hangs, down if it is raised: by about 96 degrees."""
    name = ("raise_left", "raise_right")[rng.integers(2)]
    low, high = (min(stance.raise_left for stance in STANCES), max(stance.raise_left for stance in STANCES))
    is_up = getattr(structure, name) > (low + high) / 2
    return replace(structure, **{name: float(low if is_up else high)})


def _half_erased(
    rng: np.random.Generator, copy: Render, identity: Identity, structure: Structure, floor: str
) -> Tensor:
    """Above, below, left or right of the middle of the figure its pixels are those of the empty floor."""
    empty = render(identity, replace(structure, shift_x=9.0), floor)
    rows, columns = np.nonzero(copy.mask)
    row, column = np.mgrid[: copy.mask.shape[0], : copy.mask.shape[1]]
    halves = (
        row < np.median(rows),
        row >= np.median(rows),
        column < np.median(columns),
        column >= np.median(columns),
    )
    erased = halves[rng.integers(4)]
    return to_tensor(np.where(erased[..., None], empty.image, copy.image))
