"""What is true of a generated picture of the pocket world: whether it is a whole picture of its figure, and how far the
figure has turned and moved from its reference.

The nearest render (pose_search.py) is the yardstick. Distance to it, inside its mask, is the **identity error**: on
pixels, the root of the mean squared difference of colours in [0, 1]; on features, one minus the mean cosine of the
backbone's semantic cells. Outside the mask only the floor should be, so that distance counts too. A picture is
**clean** when all three lie under thresholds that were set on true renders and on round trips through the VAE
(docs/truth.md), never on what a model makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.features.base import Backbone
from ..rewards.similarity import resize_mask
from .figures import Identity, Structure
from .pose_search import FINE_PX, nearest_poses
from .render import Render, render
from .solids import Array

CLEAN_PIXELS, CLEAN_OUTSIDE, CLEAN_FEATURES = 0.087, 0.046, 0.138
WORLD_PX = 128
TOGETHER = 8  # pictures of one figure in one search
LEAST_VISIBLE = 0.008  # of the frame: a limb of which less is seen has no say in the change of pose
LIMBS = {
    "raise_left": ("arm.left", "hand.left", "wing.left"),
    "raise_right": ("arm.right", "hand.right", "wing.right"),
    "swing": ("leg.left", "leg.right", "foot.left", "foot.right"),
    "tail": ("tail", "tail.tip"),
}


@dataclass(frozen=True)
class Truth:
    """What is true of one picture."""

    structure: Structure  # of the nearest render
    pixel_error: float
    outside_error: float  # as pixel_error, but outside the mask: what stands where nothing should
    feature_error: float
    view_change_deg: float  # angle between the directions the figure is seen from
    pose_change_deg: float  # mean over the view, the head and every limb that both pictures show

    @property
    def is_clean(self) -> bool:
        """Whether this is a whole picture of its figure."""
        return (
            self.pixel_error < CLEAN_PIXELS
            and self.outside_error < CLEAN_OUTSIDE
            and self.feature_error < CLEAN_FEATURES
        )

    @property
    def identity_error(self) -> float:
        """The pixel error."""
        return self.pixel_error


def truth_of(
    pictures: Tensor,
    identities: Sequence[Identity],
    backgrounds: Sequence[str],
    references: Sequence[Structure],
    backbone: Backbone,
) -> list[Truth]:
    """The truth of pictures (B, 3, H, H), float in [0, 1], each of a known figure on a known floor.

    `references` are the structures that the pictures' references show. Pictures whose side is no multiple of 64 are
    brought to the world's own 128 px first. Raises ValueError for pictures that are not square.
    """
    if pictures.shape[-1] == pictures.shape[-2] and pictures.shape[-1] % FINE_PX:
        size = (WORLD_PX, WORLD_PX)
        pictures = F.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    shown = pictures.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    found = _structures(shown, identities, backgrounds, references)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # NumPy works outside Python's lock
        renders = list(pool.map(_drawn, identities, found, backgrounds, [len(one) for one in shown]))
    features = feature_errors(pictures, renders, backbone)
    truths = []
    for number, (picture, drawn, structure) in enumerate(zip(shown, renders, found, strict=True)):
        view, pose = changes(identities[number], references[number], structure)
        inside, outside = pixel_errors(picture, drawn)
        truths.append(
            Truth(
                structure=structure,
                pixel_error=inside,
                outside_error=outside,
                feature_error=features[number],
                view_change_deg=view,
                pose_change_deg=pose,
            )
        )
    return truths


def _structures(
    shown: Array,
    identities: Sequence[Identity],
    backgrounds: Sequence[str],
    references: Sequence[Structure],
) -> list[Structure]:
    """The structure of the nearest render of each picture; pictures of one figure are searched together."""
    groups: dict[Identity, list[int]] = {}
    for number, identity in enumerate(identities):
        groups.setdefault(identity, []).append(number)
    jobs = [
        (identity, rows[start : start + TOGETHER])
        for identity, rows in groups.items()
        for start in range(0, len(rows), TOGETHER)
    ]

    def search(job: tuple[Identity, list[int]]) -> list[Structure]:
        identity, rows = job
        floors, starts = [backgrounds[row] for row in rows], [references[row] for row in rows]
        return [one.structure for one in nearest_poses(shown[rows], identity, floors, starts=starts)]

    found: dict[int, Structure] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for (_, rows), structures in zip(jobs, pool.map(search, jobs), strict=True):
            found.update(zip(rows, structures, strict=True))
    return [found[number] for number in range(len(identities))]


def _drawn(identity: Identity, structure: Structure, background: str, size_px: int) -> Render:
    return render(identity, structure, background, size_px=size_px)


def pixel_errors(picture: Array, drawn: Render) -> tuple[float, float]:
    """Roots of the mean squared differences of colours in [0, 1]: inside the render's mask, and outside it."""
    squares = ((picture - drawn.image.astype(np.float32) / 255) ** 2).mean(axis=-1)
    return float(np.sqrt(squares[drawn.mask].mean())), float(np.sqrt(squares[~drawn.mask].mean()))


def feature_errors(pictures: Tensor, renders: Sequence[Render], backbone: Backbone) -> list[float]:
    """One minus the mean cosine of semantic cells inside each render's mask."""
    drawn = torch.stack([torch.from_numpy(one.image).permute(2, 0, 1).float() / 255 for one in renders])
    ours, theirs = (backbone.extract(batch).semantic for batch in (pictures, drawn))
    cosine = F.cosine_similarity(ours, theirs, dim=1)
    grid = (cosine.shape[1], cosine.shape[2])
    masks = [resize_mask(torch.from_numpy(one.mask), grid) for one in renders]
    return [1 - float(row[mask.to(row.device)].mean()) for row, mask in zip(cosine, masks, strict=True)]


def changes(identity: Identity, before: Structure, after: Structure) -> tuple[float, float]:
    """(view_change_deg, pose_change_deg) from one structure of a figure to another."""
    view = _angle_between(before, after)
    parts = [view, abs(after.head_yaw - before.head_yaw)]
    seen = [visible_limbs(identity, structure) for structure in (before, after)]
    for limb in sorted(seen[0] & seen[1]):
        parts.append(abs(getattr(after, limb) - getattr(before, limb)))
    return view, math.fsum(parts) / len(parts)


def visible_limbs(identity: Identity, structure: Structure) -> set[str]:
    """The joints whose parts cover at least LEAST_VISIBLE of the frame."""
    drawn = render(identity, structure, "white", size_px=64, oversample=1)
    counts = np.bincount(drawn.parts[drawn.parts >= 0], minlength=len(drawn.solids))
    share: dict[str, float] = dict.fromkeys(LIMBS, 0.0)
    for solid, count in zip(drawn.solids, counts, strict=True):
        for limb, parts in LIMBS.items():
            if solid.part in parts:
                share[limb] += count / drawn.parts.size
    return {limb for limb, value in share.items() if value >= LEAST_VISIBLE}


def _angle_between(before: Structure, after: Structure) -> float:
    """Degrees between the directions from which two structures are seen."""

    def outward(structure: Structure) -> Array:
        azimuth, elevation = math.radians(structure.azimuth), math.radians(structure.elevation)
        return np.array(
            [
                math.cos(elevation) * math.cos(azimuth),
                math.sin(elevation),
                math.cos(elevation) * math.sin(azimuth),
            ]
        )

    cosine = float(outward(before) @ outward(after))
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
