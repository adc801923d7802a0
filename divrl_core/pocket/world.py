"""Pictures of the pocket world, rendered once into shards on disk.

Each identity is shown in two clusters of two: structures A and A' lie within about 5 degrees, B is any stance
of the world and B' lies near B. Ordered pairs inside a cluster are near-copies, pairs across clusters are other poses.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .figures import (
    BACKGROUNDS,
    Identity,
    Structure,
    caption,
    nearby_structure,
    sample_identity,
    sample_structure,
)
from .render import render

VIEWS = 4  # A, A', B, B'
SHARD_IDENTITIES = 64
WORLD_VERSION = 3  # raise when a render changes: shards of another version are refused


@dataclass(frozen=True)
class View:
    """One picture to draw: who, how, where."""

    identity: Identity
    structure: Structure
    background: str

    @property
    def prompt(self) -> str:
        """The picture's caption."""
        return caption(self.identity, self.background)


def views_of(index: int, *, seed: int, held_out: bool) -> list[View]:
    """The four views of identity number `index`; a pure function of its arguments."""
    rng = np.random.default_rng([seed, index, int(held_out)])
    identity = sample_identity(rng, held_out=held_out)
    first, other = sample_structure(rng), sample_structure(rng)
    structures = [first, nearby_structure(rng, first), other, nearby_structure(rng, other)]
    names = list(BACKGROUNDS)
    return [View(identity, structure, names[rng.integers(len(names))]) for structure in structures]


@dataclass(frozen=True)
class Shard:
    """SHARD_IDENTITIES identities: images (n, 4, H, W, 3) uint8, masks (n, 4, H, W) bool, prompts [n][4]."""

    images: np.ndarray
    masks: np.ndarray
    prompts: list[list[str]]


def render_shard(number: int, folder: Path, *, seed: int, held_out: bool) -> Path:
    """Draw shard `number` unless it lies there already; the file appears whole or not at all."""
    path = shard_path(folder, number, held_out=held_out)
    if path.exists():
        return path
    images, masks, prompts, facts = [], [], [], []
    for index in range(number * SHARD_IDENTITIES, (number + 1) * SHARD_IDENTITIES):
        views = views_of(index, seed=seed, held_out=held_out)
        pictures = [render(view.identity, view.structure, view.background) for view in views]
        images.append([picture.image for picture in pictures])
        masks.append([picture.mask for picture in pictures])
        prompts.append([view.prompt for view in views])
        facts.append([asdict(view) for view in views])
    notes = {"version": WORLD_VERSION, "seed": seed, "prompts": prompts, "facts": facts}
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            images=np.array(images),
            masks=np.packbits(np.array(masks)),
            notes=np.array(json.dumps(notes)),
        )
    os.replace(temporary, path)
    return path


def shard_path(folder: Path, number: int, *, held_out: bool) -> Path:
    """Where shard `number` of a split lies."""
    return folder / f"{'held_out' if held_out else 'train'}-{number:04d}.npz"


def load_shard(path: Path) -> Shard:
    """Read a shard back. Raises ValueError for a shard drawn by another version of the world."""
    with np.load(path, allow_pickle=False) as data:
        notes = json.loads(str(data["notes"]))
        if notes["version"] != WORLD_VERSION:
            raise ValueError(
                f"{path}: drawn by version {notes['version']} of the world, this is version {WORLD_VERSION}; "
                "delete the folder and build again"
            )
        images = data["images"]
        masks = np.unpackbits(data["masks"])[: images[..., 0].size].reshape(images.shape[:-1]).astype(bool)
    return Shard(images=images, masks=masks, prompts=notes["prompts"])


def _render_one(job: tuple[int, str, int, bool]) -> str:
    number, folder, seed, held_out = job
    return str(render_shard(number, Path(folder), seed=seed, held_out=held_out))


def render_split(
    folder: Path, shards: int, *, seed: int, held_out: bool = False, workers: int = 2
) -> Iterator[Path]:
    """Draw the missing shards of a split in `workers` processes, yielding each path as it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(number, str(folder), seed, held_out) for number in range(shards)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for path in pool.imap(_render_one, jobs):
            yield Path(path)
