"""Pictures with exact correspondences and exact damage: what the reward's heads are trained on.

A pair is a reference and a picture of the same figure in another stance, often with something wrong in it: painted
or patterned otherwise, hues turned, speckled, or a second pose shining through, all over or in a patch. The geometry
is never changed, so it stays known which surface point shows where; what was changed is known pixel by pixel.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .correspondences import correspondences
from .figures import (
    BACKGROUNDS,
    PATTERNS,
    Identity,
    Structure,
    any_structure,
    nearby_structure,
    sample_identity,
    sample_structure,
)
from .render import Render, render
from .solids import Array

# share of the pairs with each kind of damage, and how often it is confined to a patch
DAMAGES = {"none": 0.35, "repainted": 0.25, "repatterned": 0.2, "speckled": 0.08, "ghost": 0.12}
PATCH_SHARE = 0.5
MATCHES_A_CELL = 4


@dataclass(frozen=True)
class HeadPairs:
    """N pairs on a grid of g x g cells.

    references, pictures: uint8 (N, H, W, 3). object_share: (N, g*g) share of a reference's cell that is figure.
    figure_share: the same of the picture. match_cell, match_share: (N, g*g, 4) the reference's cells in which most of
    a picture's cell is seen again, and which share of it; a share of 0 is no match. changed: (N, g*g) mean
    difference, in [0, 1], of the picture's figure from what is true there; NaN where there is no figure.
    """

    references: Tensor
    pictures: Tensor
    object_share: Tensor
    figure_share: Tensor
    match_cell: Tensor
    match_share: Tensor
    changed: Tensor

    @classmethod
    def joined(cls, parts: list[HeadPairs]) -> HeadPairs:
        """The pairs of several shards."""
        return cls(
            *(torch.cat(values) for values in zip(*(vars(part).values() for part in parts), strict=True))
        )


def draw_shards(
    folder: Path, count: int, *, grid: int, seed: int, workers: int, pairs: int
) -> Iterator[HeadPairs]:
    """The first `count` shards of so many pairs each, drawn where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        for path in pool.map(partial(_shard, folder, grid, seed, pairs), range(count)):
            yield HeadPairs(**load_file(path))


def draw_pair(rng: np.random.Generator, *, grid: int) -> dict[str, Array]:
    """One pair as arrays, by the names of `HeadPairs`."""
    identity = sample_identity(rng, held_out=False)
    floor, other_floor = rng.choice(list(BACKGROUNDS), size=2)
    stance = sample_structure(rng)
    reference = render(identity, stance, floor)
    pose = _another(rng, stance)
    true = render(identity, pose, other_floor)
    picture = _damaged(rng, identity, pose, other_floor, true)
    side = true.mask.shape[0]
    cell = (np.arange(side) * grid // side)[:, None] * grid + np.arange(side)[None, :] * grid // side
    area = np.bincount(cell.ravel(), minlength=grid * grid)
    rows = correspondences(true, reference)
    matches = np.zeros((grid * grid, grid * grid), dtype=np.float32)
    np.add.at(matches, (cell[rows[:, 0], rows[:, 1]], cell[rows[:, 2], rows[:, 3]]), 1)
    most = np.argsort(-matches, axis=1, kind="stable")[:, :MATCHES_A_CELL]
    difference = np.abs(picture.astype(np.float32) - true.image.astype(np.float32)).mean(axis=-1) / 255
    figure = np.bincount(cell[true.mask], minlength=grid * grid)
    summed = np.bincount(cell[true.mask], difference[true.mask], minlength=grid * grid)
    return {
        "references": reference.image,
        "pictures": picture,
        "object_share": (np.bincount(cell[reference.mask], minlength=grid * grid) / area).astype(np.float32),
        "figure_share": (figure / area).astype(np.float32),
        "match_cell": most.astype(np.int64),
        "match_share": np.take_along_axis(matches, most, axis=1) / area[:, None].astype(np.float32),
        "changed": np.where(figure > 0, summed / np.maximum(figure, 1), np.nan).astype(np.float32),
    }


def _shard(folder: Path, grid: int, seed: int, count: int, number: int) -> Path:
    path = folder / f"heads-{seed}-{grid}-{count}-{number:03d}.safetensors"
    if not path.exists():
        pairs = [draw_pair(np.random.default_rng([seed, number, index]), grid=grid) for index in range(count)]
        fresh = path.with_suffix(".tmp")
        stacked = {
            name: torch.from_numpy(np.stack([pair[name] for pair in pairs])).contiguous() for name in pairs[0]
        }
        save_file(stacked, fresh)
        fresh.rename(path)
    return path


def _another(rng: np.random.Generator, stance: Structure) -> Structure:
    """The picture's pose: a quarter near the reference's, half in any stance, a quarter anything."""
    draw = rng.random()
    if draw < 0.25:
        return nearby_structure(rng, stance)
    return sample_structure(rng) if draw < 0.75 else any_structure(rng)


def _damaged(
    rng: np.random.Generator, identity: Identity, pose: Structure, floor: str, true: Render
) -> Array:
    """The true picture with one damage laid over it, all over the figure or in a patch."""
    kind = rng.choice(list(DAMAGES), p=list(DAMAGES.values()))
    if kind == "none":
        return true.image
    weight = _patch(rng, true.mask) if rng.random() < PATCH_SHARE else np.ones(true.mask.shape)
    if kind == "repainted":
        other = render(_repainted(rng, identity), pose, floor).image
    elif kind == "repatterned":
        patterns = [pattern for pattern in PATTERNS if pattern != identity.pattern]
        other = render(replace(identity, pattern=str(rng.choice(patterns))), pose, floor).image
    elif kind == "ghost":
        other = render(identity, sample_structure(rng), floor).image
        weight = weight * rng.uniform(0.4, 0.8)
    else:
        blocks = 2 ** int(rng.integers(4, 7))
        other = np.kron(
            rng.integers(0, 256, (blocks, blocks, 3)), np.ones((128 // blocks, 128 // blocks, 1), dtype=int)
        )
        hit = np.kron(rng.random((blocks, blocks)) < 0.5, np.ones((128 // blocks, 128 // blocks)))
        weight = weight * hit * true.mask * rng.uniform(0.5, 1)
    mixed = true.image * (1 - weight[..., None]) + other * weight[..., None]
    return (mixed + 0.5).astype(np.uint8)


def _patch(rng: np.random.Generator, mask: Array) -> Array:
    """A soft disc, (H, W) in [0, 1], about a random point of the figure."""
    rows, columns = np.nonzero(mask)
    middle = rng.integers(len(rows))
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    distance = np.hypot(y - rows[middle], x - columns[middle])
    patch: Array = np.clip((rng.uniform(10, 36) - distance) / 3 + 0.5, 0, 1)
    return patch


def _repainted(rng: np.random.Generator, identity: Identity) -> Identity:
    """One, two or all three of the colours changed for those of another figure, or two of them swapped."""
    paint = sample_identity(rng, held_out=False)
    match rng.integers(4):
        case 0:
            return replace(identity, primary=paint.primary)
        case 1:
            return replace(identity, secondary=paint.secondary, accent=paint.accent)
        case 2:
            return replace(identity, primary=identity.secondary, secondary=identity.primary)
        case _:
            return replace(identity, primary=paint.primary, secondary=paint.secondary, accent=paint.accent)
