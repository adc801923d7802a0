"""The render of a figure that lies nearest to a picture: a dense grid of poses first, then finer and finer renders.

The world is known, so the truth about a generated picture is too: if some pose of its figure looks like it, the figure
is whole and that is how it stands; if none does, the figure is broken or another one.

A picture and a render differ by the mean square of their colours over the whole frame: the floor is known too, so a
limb too many costs as much as one too few. For refinement both are blurred: an edge that is off by more than its own
width pulls nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import product

import numpy as np

from .figures import Identity, Poses, Structure
from .pose_factors import FACTORS, HIGHEST, LOWEST, PROBE, poses_of, structure_of, vector_of
from .render import Layers, render_layers
from .shading import pixel_filter
from .solids import Array

GRID_PX, FINE_PX = 32, 64
AZIMUTHS = (-80, -60, -40, -20, 0, 20, 40, 60, 80)
HEAD_YAWS = (-36, -12, 12, 36)
RAISES = (12, 55, 98)
TRIED_RAISES, SWINGS, TAILS = (5, 30, 55, 80, 105), (-24, -8, 8, 24), (-28, 0, 28)
GRID_SCALES = (0.93, 0.98, 1.03)
GRID_SHIFTS_PX = (-2, -1, 0, 1, 2)  # of a picture of GRID_PX
STARTS = 2  # grid poses that are refined
ROUNDS = 3  # of refinement, before and after every factor is tried over its whole range
FINE_ROUNDS = 5
KEPT = 2  # poses whose factors are tried, and that are refined after that
SETTLED = 0.1  # of a PROBE: a pose that no factor would move by more is done
GRID_BLUR_PX, FINE_BLUR_PX = 1.2, 1.5


@dataclass(frozen=True)
class Nearest:
    """The pose found, and its distance to the picture at FINE_PX (root of the mean square; colours in [0, 1])."""

    structure: Structure
    distance: float


def nearest_poses(
    pictures: Array,
    identity: Identity,
    backgrounds: Sequence[str],
    *,
    starts: Sequence[Structure] | None = None,
) -> list[Nearest]:
    """Find, for each picture, the pose of `identity` on its background that looks most like it.

    Args:
        pictures: (N, H, H, 3) float in [0, 1], H a multiple of FINE_PX; all of one figure, and so drawn side by side.
        starts: a pose for each picture that is refined beside the grid's best, such as the reference's.

    Raises ValueError for pictures of another shape.
    """
    if pictures.ndim != 4 or pictures.shape[1] != pictures.shape[2] or pictures.shape[1] % FINE_PX:
        raise ValueError(
            f"pictures must be (N, H, H, 3) with H a multiple of {FINE_PX}, got {pictures.shape}"
        )
    small, fine = shrink(pictures, GRID_PX), shrink(pictures, FINE_PX)
    coarse = _Sought(small, identity, tuple(backgrounds), GRID_BLUR_PX)
    tried: list[tuple[int, Structure]] = []
    for number, background in enumerate(backgrounds):
        own = [] if starts is None else [starts[number]]
        best = _best_of_grid(small[number], identity, background)
        tried.extend((number, structure) for structure in (*best, *own))
    poses = _Tried(np.array([number for number, _ in tried]), np.array([vector_of(one) for _, one in tried]))
    poses = _scan(coarse, _refine(coarse, poses, ROUNDS).nearest(KEPT))
    poses = _refine(coarse, poses, ROUNDS).nearest(1)
    poses = _refine(_Sought(fine, identity, tuple(backgrounds), FINE_BLUR_PX), poses, FINE_ROUNDS)
    return [
        Nearest(structure_of(vector), float(np.sqrt(distance)))
        for vector, distance in zip(poses.vectors, poses.distances, strict=True)
    ]


@dataclass(frozen=True)
class _Sought:
    """N pictures (N, H, H, 3) of one figure, each on its floor, and how far they and their renders are blurred."""

    pictures: Array
    identity: Identity
    backgrounds: tuple[str, ...]
    blur_px: float

    def floors(self, whose: Array) -> list[str]:
        """The floors of the pictures `whose` (K,)."""
        return [self.backgrounds[number] for number in whose]


@dataclass(frozen=True)
class _Tried:
    """K poses (K, F), the number of the picture that each is tried on (K,), and once known its distance^2 (K,)."""

    whose: Array
    vectors: Array
    distances: Array = field(default_factory=lambda: np.zeros(0))

    def nearest(self, count: int) -> _Tried:
        """The `count` nearest poses of every picture, picture by picture."""
        order = np.lexsort((self.distances, self.whose))
        kept = [order[self.whose[order] == number][:count] for number in np.unique(self.whose)]
        chosen = np.concatenate(kept)
        return _Tried(self.whose[chosen], self.vectors[chosen], self.distances[chosen])


def shrink(pictures: Array, size: int) -> Array:
    """Mean over blocks, seen through the pixel filter of a render of that size: (N, H, H, 3) to (N, size, size, 3)."""
    block = pictures.shape[1] // size
    small: Array = pictures.reshape(len(pictures), size, block, size, block, -1).mean(
        axis=(2, 4), dtype=np.float32
    )
    return pixel_filter(small)


@lru_cache(maxsize=64)
def _grid(identity: Identity) -> tuple[tuple[Structure, ...], Layers]:
    """Every pose of the grid and its render, once a figure, to be put on any floor."""
    structures = tuple(
        Structure(
            azimuth=azimuth,
            elevation=14,
            head_yaw=yaw,
            swing=0,
            raise_left=left,
            raise_right=right,
            tail=0,
            scale=0.98,
            shift_x=0,
            shift_y=0,
        )
        for azimuth, yaw, left, right in product(AZIMUTHS, HEAD_YAWS, RAISES, RAISES)
    )
    return structures, render_layers(identity, Poses.of(structures), size_px=GRID_PX)


def _best_of_grid(small: Array, identity: Identity, background: str) -> list[Structure]:
    """The STARTS nearest poses, no two of one azimuth and head yaw, each at the scale and place where it fits best."""
    structures, layers = _grid(identity)
    renders = layers.over(background).reshape(len(structures), -1)
    places = list(product(GRID_SCALES, GRID_SHIFTS_PX, GRID_SHIFTS_PX))
    moved = np.stack([_resampled(small, scale / structures[0].scale, y, x) for scale, y, x in places])
    moved = moved.reshape(len(places), -1)
    # |x - g|^2 = x^2 - 2 g x + g^2, for all poses and places at a time
    distances = (moved**2).sum(1) - 2 * renders @ moved.T + (renders**2).sum(1)[:, None]
    chosen: list[Structure] = []
    views: set[tuple[float, float]] = set()
    for nearest in np.argsort(distances, axis=None):
        pose, place = np.unravel_index(nearest, distances.shape)
        structure = structures[pose]
        if (view := (structure.azimuth, structure.head_yaw)) in views:
            continue
        views.add(view)
        scale, y, x = places[place]
        chosen.append(replace(structure, scale=scale, shift_x=x / GRID_PX, shift_y=y / GRID_PX))
        if len(chosen) == STARTS:
            break
    return chosen


def _resampled(small: Array, scale: float, down: float, right: float) -> Array:
    """What stands `scale` times larger and moved by (down, right) pixels, brought back to the middle; bilinear."""
    size = small.shape[0]
    middle = (size - 1) / 2

    def along(axis: int, picture: Array, shift: float) -> Array:
        position = np.clip((np.arange(size) - middle) * scale + middle + shift, 0, size - 1)
        low = np.minimum(position.astype(int), size - 2)
        share = (position - low).astype(np.float32).reshape(-1, *([1] * (2 - axis)))
        return np.take(picture, low, axis) * (1 - share) + np.take(picture, low + 1, axis) * share

    return along(1, along(0, small, down), right)


def _refine(sought: _Sought, start: _Tried, rounds: int) -> _Tried:
    """Damped Gauss-Newton (Levenberg-Marquardt) from K poses at once; the best poses met, with their distances.

    A pose that came nearer is drawn once more for each factor, moved by PROBE: the differences are its Jacobian.
    """
    size, count, factors = sought.pictures.shape[1], len(start.vectors), len(FACTORS)
    soft = pixel_filter(sought.pictures, sought.blur_px).reshape(len(sought.pictures), -1)[start.whose]
    probe, low, high = (vector_of(bound) for bound in (PROBE, LOWEST, HIGHEST))
    best, best_distance = start.vectors.copy(), np.full(count, np.inf)
    trial, damping, alive = start.vectors.copy(), np.full(count, 0.1), np.arange(count)
    normal, pull = np.zeros((count, factors, factors)), np.zeros((count, factors))
    for turn in range(rounds + 1):
        layers = render_layers(sought.identity, poses_of(trial[alive]), size_px=size)
        renders = layers.over(sought.floors(start.whose[alive]))
        shown = pixel_filter(renders, sought.blur_px).reshape(len(alive), -1)
        distance = ((soft[alive] - shown) ** 2).mean(axis=1)
        is_better = distance < best_distance[alive]
        damping[alive] *= np.where(is_better, 0.3, 8.0)
        won = alive[is_better]
        best[won], best_distance[won] = trial[won], distance[is_better]
        if turn == rounds:
            break
        if len(won):
            # towards the middle where a step would leave the range
            signs = np.where(trial[won] + probe > high, -1.0, 1.0)
            moved = trial[won][:, None] + signs[:, :, None] * np.diag(probe)
            probes = pixel_filter(
                _renders(sought, start.whose[won], moved, layers.shadow[is_better]), sought.blur_px
            )
            slopes = probes.reshape(len(won), factors, -1) - shown[is_better][:, None]
            for k, slope, ours in zip(won, slopes * signs[:, :, None], shown[is_better], strict=True):
                normal[k], pull[k] = slope @ slope.T, slope @ (soft[k] - ours)
        diagonal = normal[alive].diagonal(axis1=1, axis2=2)
        ridge = damping[alive, None] * diagonal + 1e-3 * diagonal.max(axis=1, keepdims=True) + 1e-12
        steps = np.linalg.solve(normal[alive] + ridge[:, :, None] * np.eye(factors), pull[alive][..., None])
        steps = np.clip(steps[..., 0], -4, 4)
        trial[alive] = np.clip(best[alive] + steps * probe, low, high)
        alive = alive[np.abs(steps).max(axis=1) > SETTLED]
        if not len(alive):
            break
    return _Tried(start.whose, best, best_distance)


def _scan(sought: _Sought, start: _Tried) -> _Tried:
    """Try every joint of K poses over its whole range, one at a time; the KEPT best of each picture.

    A refinement cannot carry an arm from one side of the head to the other, where nothing between looks like it.
    """
    trials = {
        "head_yaw": HEAD_YAWS,
        "swing": SWINGS,
        "raise_left": TRIED_RAISES,
        "raise_right": TRIED_RAISES,
        "tail": TAILS,
    }
    moves = [(FACTORS.index(name), value) for name, values in trials.items() for value in values]
    moved = np.repeat(start.vectors[:, None], len(moves) + 1, axis=1)
    for number, (factor, value) in enumerate(moves, start=1):
        moved[:, number, factor] = value
    size = sought.pictures.shape[1]
    shadow = render_layers(sought.identity, poses_of(start.vectors), size_px=size).shadow
    renders = _renders(sought, start.whose, moved, shadow)
    aims = sought.pictures.reshape(len(sought.pictures), 1, -1)
    distance = ((aims[start.whose] - renders.reshape(*moved.shape[:2], -1)) ** 2).mean(axis=2)
    found = start.vectors.copy()
    for k in range(len(found)):
        for factor in {factor for factor, _ in moves}:
            tried = [number for number, (other, _) in enumerate(moves, start=1) if other == factor]
            best = tried[int(np.argmin(distance[k, tried]))]
            if distance[k, best] < distance[k, 0]:
                found[k, factor] = moved[k, best, factor]
    both = np.unique(
        np.column_stack([np.tile(start.whose, 2), np.concatenate([start.vectors, found])]), axis=0
    )
    whose, vectors = both[:, 0].astype(int), both[:, 1:]
    renders = render_layers(sought.identity, poses_of(vectors), size_px=size).over(sought.floors(whose))
    distances = ((sought.pictures[whose] - renders) ** 2).mean(axis=(1, 2, 3))
    return _Tried(whose, vectors, distances).nearest(KEPT)


def _renders(sought: _Sought, whose: Array, vectors: Array, shadow: Array) -> Array:
    """Pictures (K * M, H, W, 3) of M poses beside each of K (K, M, F), under the shadows (K, H, W) of the K."""
    beside = vectors.shape[1]
    poses = poses_of(vectors.reshape(-1, vectors.shape[-1]))
    size = sought.pictures.shape[1]
    layers = render_layers(sought.identity, poses, size_px=size, with_shadow=False)
    floors = sought.floors(np.repeat(whose, beside))
    return replace(layers, shadow=np.repeat(shadow, beside, axis=0)).over(floors)
