"""The render of a figure that lies nearest to a picture: a dense grid of poses first, then finer and finer renders.

The world is known, so the truth about a generated picture is too: if some pose of its figure looks like it, the figure
is whole and that is how it stands; if none does, the figure is broken or another one.

A picture and a render differ by the mean square of their colours over the whole frame: the floor is known too, so a
limb too many costs as much as one too few. For refinement both are blurred: an edge that is off by more than its own
width pulls nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import product

import numpy as np

from .figures import Identity, Poses, Structure
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

# how far each factor is moved to see what it does, and where it is held (degrees; scale; share of the frame)
PROBE = Structure(
    azimuth=5,
    elevation=4,
    head_yaw=6,
    swing=7,
    raise_left=8,
    raise_right=8,
    tail=10,
    scale=0.02,
    shift_x=0.012,
    shift_y=0.012,
)
LOWEST = Structure(
    azimuth=-110,
    elevation=4,
    head_yaw=-60,
    swing=-45,
    raise_left=-15,
    raise_right=-15,
    tail=-50,
    scale=0.86,
    shift_x=-0.08,
    shift_y=-0.06,
)
HIGHEST = Structure(
    azimuth=110,
    elevation=24,
    head_yaw=60,
    swing=45,
    raise_left=130,
    raise_right=130,
    tail=50,
    scale=1.1,
    shift_x=0.08,
    shift_y=0.06,
)
FACTORS = tuple(field.name for field in fields(Structure))


@dataclass(frozen=True)
class Nearest:
    """The pose found, and its distance to the picture at FINE_PX (root of the mean square; colours in [0, 1])."""

    structure: Structure
    distance: float


def nearest_pose(
    picture: Array, identity: Identity, background: str, *, starts: Sequence[Structure] = ()
) -> Nearest:
    """Find the pose of `identity` on `background` that looks most like `picture`.

    Args:
        picture: (H, W, 3) float in [0, 1], H = W a multiple of FINE_PX.
        starts: poses to be refined beside the grid's best, such as the reference's.

    Raises ValueError for a picture of another shape.
    """
    if picture.ndim != 3 or picture.shape[0] != picture.shape[1] or picture.shape[0] % FINE_PX:
        raise ValueError(f"picture must be (H, H, 3) with H a multiple of {FINE_PX}, got {picture.shape}")
    small, fine = shrink(picture, GRID_PX), shrink(picture, FINE_PX)
    vectors = np.array([_vector(one) for one in (*_best_of_grid(small, identity, background), *starts)])
    vectors, distances = _refine(small, identity, background, vectors, ROUNDS, GRID_BLUR_PX)
    vectors = _scan(small, identity, background, vectors[np.argsort(distances)[:KEPT]])
    vectors, distances = _refine(small, identity, background, vectors, ROUNDS, GRID_BLUR_PX)
    best = vectors[np.argmin(distances)][None]
    best, distances = _refine(fine, identity, background, best, FINE_ROUNDS, FINE_BLUR_PX)
    return Nearest(_structure(best[0]), float(np.sqrt(distances[0])))


def shrink(picture: Array, size: int) -> Array:
    """Mean over blocks, seen through the pixel filter of a render of that size: (H, W, 3) to (size, size, 3)."""
    block = picture.shape[0] // size
    small: Array = picture.reshape(1, size, block, size, block, -1).mean(axis=(2, 4), dtype=np.float32)
    return pixel_filter(small)[0]


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


def _refine(
    picture: Array, identity: Identity, background: str, vectors: Array, rounds: int, blur_px: float
) -> tuple[Array, Array]:
    """Damped Gauss-Newton (Levenberg-Marquardt) from K poses (K, F) at once; returns the best poses and their d^2 (K,).

    A pose that came nearer is drawn once more for each factor, moved by PROBE: the differences are its Jacobian.
    """
    size, count, factors = picture.shape[0], len(vectors), len(FACTORS)
    soft = pixel_filter(picture[None], blur_px).ravel()
    probe, low, high = (_vector(bound) for bound in (PROBE, LOWEST, HIGHEST))
    best, best_distance = vectors.copy(), np.full(count, np.inf)
    trial, damping, alive = vectors.copy(), np.full(count, 0.1), np.arange(count)
    normal, pull = np.zeros((count, factors, factors)), np.zeros((count, factors))
    for turn in range(rounds + 1):
        layers = render_layers(identity, _poses(trial[alive]), size_px=size)
        shown = pixel_filter(layers.over(background), blur_px).reshape(len(alive), -1)
        distance = ((soft - shown) ** 2).mean(axis=1)
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
            shadow = np.repeat(layers.shadow[is_better], factors, axis=0)
            probes = pixel_filter(_renders(identity, background, moved, size, shadow), blur_px)
            slopes = probes.reshape(len(won), factors, -1) - shown[is_better][:, None]
            for k, slope, ours in zip(won, slopes * signs[:, :, None], shown[is_better], strict=True):
                normal[k], pull[k] = slope @ slope.T, slope @ (soft - ours)
        diagonal = normal[alive].diagonal(axis1=1, axis2=2)
        ridge = damping[alive, None] * diagonal + 1e-3 * diagonal.max(axis=1, keepdims=True) + 1e-12
        steps = np.linalg.solve(normal[alive] + ridge[:, :, None] * np.eye(factors), pull[alive][..., None])
        steps = np.clip(steps[..., 0], -4, 4)
        trial[alive] = np.clip(best[alive] + steps * probe, low, high)
        alive = alive[np.abs(steps).max(axis=1) > SETTLED]
        if not len(alive):
            break
    return best, best_distance


def _scan(small: Array, identity: Identity, background: str, vectors: Array) -> Array:
    """Try every joint of K poses over its whole range, one at a time; returns the poses with the better values.

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
    moved = np.repeat(vectors[:, None], len(moves) + 1, axis=1)
    for number, (factor, value) in enumerate(moves, start=1):
        moved[:, number, factor] = value
    size = small.shape[0]
    shadow = render_layers(identity, _poses(vectors), size_px=size).shadow
    renders = _renders(identity, background, moved, size, np.repeat(shadow, moved.shape[1], axis=0))
    distance = ((small.ravel() - renders.reshape(*moved.shape[:2], -1)) ** 2).mean(axis=2)
    found = vectors.copy()
    for k in range(len(vectors)):
        for factor in {factor for factor, _ in moves}:
            tried = [number for number, (other, _) in enumerate(moves, start=1) if other == factor]
            best = tried[int(np.argmin(distance[k, tried]))]
            if distance[k, best] < distance[k, 0]:
                found[k, factor] = moved[k, best, factor]
    both = np.unique(np.concatenate([vectors, found]), axis=0)
    layers = render_layers(identity, _poses(both), size_px=size)
    distance = ((small - layers.over(background)) ** 2).mean(axis=(1, 2, 3))
    return both[np.argsort(distance)[:KEPT]]


def _renders(identity: Identity, background: str, vectors: Array, size: int, shadow: Array) -> Array:
    """Pictures (K * M, H, W, 3) of poses (K, M, F) under the shadows (K * M, H, W) of poses near them."""
    poses = _poses(vectors.reshape(-1, vectors.shape[-1]))
    layers = render_layers(identity, poses, size_px=size, with_shadow=False)
    return replace(layers, shadow=shadow).over(background)


def _vector(structure: Structure) -> Array:
    return np.array([getattr(structure, name) for name in FACTORS], dtype=np.float64)


def _structure(vector: Array) -> Structure:
    return Structure(**dict(zip(FACTORS, map(float, vector), strict=True)))


def _poses(vectors: Array) -> Poses:
    return Poses(**dict(zip(FACTORS, vectors.T, strict=True)))
