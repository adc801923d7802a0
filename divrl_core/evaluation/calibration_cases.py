"""Pictures of known truth for calibrating a backbone: a reference of the pocket world and others, by label.

- same: the same figure in the same structure, on another floor; what a perfect copy gives
- near view: within about 5 degrees; what a model that copies its reference gives
- other view: any other view and pose; what exploration should reach, and VSM should not punish
- other palette: near view, the figure in other colours
- hue turned: `same` with all hues turned by 90 to 270 degrees (white, grey and black do not change)
- other subject: another body plan, anywhere

No thresholds are chosen by the rest:

- scrambled: `same` with its figure's blocks of an eighth of the side shuffled
- other pattern: near view, the body in another pattern of the same colours
- displaced: `same` in another place of the frame
- relit: `same` with the lamp on the other side
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..pocket.figures import (
    BACKGROUNDS,
    PATTERNS,
    Identity,
    Structure,
    nearby_structure,
    sample_identity,
    sample_structure,
)
from ..pocket.render import Render, render

SAME_SUBJECT = ("same", "near view", "other view")
OTHER_SUBJECT = ("other palette", "hue turned", "other subject")
MEASURED_ONLY = ("scrambled", "other pattern", "displaced", "relit")
LABELS = (*SAME_SUBJECT, *OTHER_SUBJECT, *MEASURED_ONLY)
RELIT = (-0.55, 0.70, 0.45)
BLOCKS_A_SIDE = 8


@dataclass(frozen=True, kw_only=True)
class CalibrationCase:
    """One reference (3, H, W) in [0, 1] with its mask, bool (H, W), and other pictures by their label."""

    reference: Tensor
    mask: Tensor
    others: Mapping[str, Tensor]


def pocket_cases(count: int, *, seed: int, held_out: bool = False) -> Iterator[CalibrationCase]:
    """Cases of true renders, figure by figure; a pure function of its arguments."""
    for index in range(count):
        yield _case(np.random.default_rng([seed, index, int(held_out)]), held_out)


def _case(rng: np.random.Generator, held_out: bool) -> CalibrationCase:
    identity, structure = sample_identity(rng, held_out=held_out), sample_structure(rng)
    names = list(BACKGROUNDS)
    floor, other_floor = (names[index] for index in rng.choice(len(names), size=2, replace=False))
    reference = render(identity, structure, floor)
    same = render(identity, structure, other_floor)
    others = {
        "same": to_tensor(same.image),
        "near view": _drawn(identity, nearby_structure(rng, structure), other_floor),
        "other view": _drawn(identity, sample_structure(rng), other_floor),
        "other palette": _drawn(repainted(rng, identity), nearby_structure(rng, structure), other_floor),
        "hue turned": turn_hue(to_tensor(same.image), float(rng.uniform(0.25, 0.75))),
        "other subject": _drawn(other_plan(rng, identity, held_out), sample_structure(rng), other_floor),
        "scrambled": scrambled(rng, same),
        "other pattern": _drawn(repatterned(rng, identity), nearby_structure(rng, structure), other_floor),
        "displaced": _drawn(identity, _displaced(rng, structure), other_floor),
        "relit": to_tensor(render(identity, structure, other_floor, lamp=RELIT).image),
    }
    return CalibrationCase(
        reference=to_tensor(reference.image), mask=torch.from_numpy(reference.mask), others=others
    )


def turn_hue(image: Tensor, turns: float) -> Tensor:
    """A picture (3, H, W) with every hue turned by a share of the circle; saturation and value (HSV) stay."""
    value, largest = image.max(dim=0)
    span = value - image.min(dim=0).values
    red, green, blue = image
    safe = span.clamp_min(1e-6)
    by_channel = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe])
    hue = by_channel.gather(0, largest[None])[0] / 6 + turns
    # Channel n of HSV to RGB: value - span * clamp(min(k, 4 - k), 0, 1) with k = (n + 6 hue) mod 6, n = 5, 3, 1.
    k = torch.stack([(n + 6 * hue) % 6 for n in (5, 3, 1)])
    return value - span * torch.minimum(k, 4 - k).clamp(0, 1)


def _drawn(identity: Identity, structure: Structure, floor: str) -> Tensor:
    return to_tensor(render(identity, structure, floor).image)


def repainted(rng: np.random.Generator, identity: Identity) -> Identity:
    """The same build in colours of which the first is another and the first two are not merely swapped."""
    while True:
        paint = sample_identity(rng, held_out=False)
        if paint.primary not in (identity.primary, identity.secondary):
            return replace(identity, primary=paint.primary, secondary=paint.secondary, accent=paint.accent)


def repatterned(rng: np.random.Generator, identity: Identity) -> Identity:
    others = [pattern for pattern in PATTERNS if pattern != identity.pattern]
    return replace(identity, pattern=others[rng.integers(len(others))])


def _displaced(rng: np.random.Generator, structure: Structure) -> Structure:
    """Moved by .06 to .1 of the frame to one side, and by half of that down or up."""
    across, down = (
        rng.uniform(0.06, 0.10) * rng.choice([-1, 1]),
        rng.uniform(0.03, 0.05) * rng.choice([-1, 1]),
    )
    return replace(
        structure, shift_x=structure.shift_x + float(across), shift_y=structure.shift_y + float(down)
    )


def other_plan(rng: np.random.Generator, identity: Identity, held_out: bool) -> Identity:
    while (other := sample_identity(rng, held_out=held_out)).plan == identity.plan:
        pass
    return other


def scrambled(rng: np.random.Generator, drawn: Render) -> Tensor:
    """The blocks that hold figure in other places of the figure."""
    side = drawn.mask.shape[0] // BLOCKS_A_SIDE
    blocks = drawn.mask.reshape(BLOCKS_A_SIDE, side, BLOCKS_A_SIDE, side).any(axis=(1, 3))
    places = np.argwhere(blocks)
    image = drawn.image.copy()
    for (row, column), (from_row, from_column) in zip(places, rng.permutation(places), strict=True):
        source = drawn.image[
            from_row * side : (from_row + 1) * side, from_column * side : (from_column + 1) * side
        ]
        image[row * side : (row + 1) * side, column * side : (column + 1) * side] = source
    return to_tensor(image)


def to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255
