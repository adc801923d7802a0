"""A small ray caster for the pocket world: picture, exact mask, part map and surface coordinates in one pass.

Each solid is intersected only inside the rectangle of its bounding ball; a z-buffer keeps the nearest hit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .figures import BACKGROUNDS, COLOURS, Identity, Structure
from .plans import build_figure
from .solids import FAR, Array, Solid, intersect

VIEW_ANGLE_DEG = 30.0
CAMERA_DISTANCE = 5.6
# each plan fills the frame: height of the point looked at (world units) and size on the picture
LOOK_AT_HEIGHT = {
    "fox": 0.78,
    "bear": 0.98,
    "rabbit": 1.08,
    "elephant": 0.86,
    "giraffe": 1.12,
    "duck": 0.72,
    "robot": 1.06,
    "dinosaur": 0.82,
}
PLAN_SCALE = {
    "fox": 1.12,
    "bear": 1.12,
    "rabbit": 1.04,
    "elephant": 0.94,
    "giraffe": 1.02,
    "duck": 1.06,
    "robot": 1.06,
    "dinosaur": 1.08,
}  # fmt: skip
LIGHT = np.array([0.45, 0.80, 0.40], dtype=np.float32) / np.float32(np.linalg.norm([0.45, 0.80, 0.40]))


@dataclass(frozen=True)
class Render:
    """One picture with its truth. Pixel arrays are (size, size, ...)."""

    image: Array  # (H, W, 3) uint8 sRGB
    mask: Array  # (H, W) bool: the figure
    parts: Array  # (H, W) int16: index of the solid seen, -1 elsewhere
    local: Array  # (H, W, 3) float32: surface point in that solid's own frame
    depth: Array  # (H, W) float32: distance along the ray, FAR where no figure is
    camera: Camera
    solids: tuple[Solid, ...]


@dataclass(frozen=True)
class Camera:
    """A pinhole: `eye` (3,), `axes` (3, 3) rows right, up, forward; `offset` of the picture in half-widths."""

    eye: Array
    axes: Array
    zoom: float
    offset: tuple[float, float]

    def rays(self, size: int) -> Array:
        """Unit ray directions (size, size, 3), row 0 at the top."""
        steps = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        across = (steps[None, :] - self.offset[0]) / self.zoom
        upward = (-steps[:, None] - self.offset[1]) / self.zoom
        ones = np.ones((size, size), dtype=np.float32)
        local = np.stack([across * ones, upward * ones, ones], axis=-1)
        rays = local @ self.axes
        return rays / np.linalg.norm(rays, axis=-1, keepdims=True)

    def project(self, points: Array) -> tuple[Array, Array, Array]:
        """World points (N, 3) to picture coordinates x, y in [-1, 1] (y down) and distance from the eye."""
        seen = (points - self.eye) @ self.axes.T
        forward = np.maximum(seen[:, 2], 1e-6)
        x = seen[:, 0] / forward * self.zoom + self.offset[0]
        y = -(seen[:, 1] / forward * self.zoom + self.offset[1])
        return x, y, np.linalg.norm(points - self.eye, axis=-1)


def camera_of(identity: Identity, structure: Structure) -> Camera:
    """The camera of a structure: azimuth and elevation round the figure, scale and place in the frame."""
    azimuth, elevation = np.deg2rad(structure.azimuth), np.deg2rad(structure.elevation)
    outward = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.sin(elevation), -np.cos(elevation) * np.sin(azimuth)]
    )
    right = np.array([-np.sin(azimuth), 0.0, -np.cos(azimuth)])
    up = np.cross(outward, right)
    target = np.array([0.0, LOOK_AT_HEIGHT[identity.plan], 0.0])
    zoom = structure.scale * PLAN_SCALE[identity.plan] / np.tan(np.deg2rad(VIEW_ANGLE_DEG / 2))
    return Camera(
        eye=(target + CAMERA_DISTANCE * outward).astype(np.float32),
        axes=np.stack([right, up, -outward]).astype(np.float32),
        zoom=float(zoom),
        offset=(2 * structure.shift_x, 2 * structure.shift_y),
    )


def render(
    identity: Identity, structure: Structure, background: str, *, size_px: int = 128, oversample: int = 2
) -> Render:
    """Draw a figure, anti-aliased by `oversample` squared rays a pixel.

    The mask holds the pixels whose rays hit the figure at least half the time; part map, coordinates and depth are
    those of a pixel's first ray.
    """
    solids = tuple(build_figure(identity, structure))
    camera = camera_of(identity, structure)
    rays = camera.rays(size_px * oversample)
    depth, parts, normals = _cast(solids, camera, rays)
    local = np.zeros_like(rays)
    colour = np.zeros_like(rays)
    pixels = np.flatnonzero(parts.ravel() >= 0)
    pixels = pixels[np.argsort(parts.ravel()[pixels], kind="stable")]
    bounds = np.searchsorted(parts.ravel()[pixels], np.arange(len(solids) + 1))
    for solid, low, high in zip(solids, bounds[:-1], bounds[1:], strict=True):
        here = pixels[low:high]
        ray = rays.reshape(-1, 3)[here]
        points = camera.eye + ray * depth.ravel()[here][:, None]
        local.reshape(-1, 3)[here] = surface = solid.to_local(points)
        albedo = _paint(identity, solid, surface)
        gloss = 0.75 if solid.colour == "dark" else 0.22
        colour.reshape(-1, 3)[here] = _shade(albedo, normals.reshape(-1, 3)[here], ray, points, gloss)
    blocks = (size_px, oversample, size_px, oversample)
    coverage = (parts >= 0).reshape(blocks).mean(axis=(1, 3), dtype=np.float32)
    painted = colour.reshape(*blocks, 3).mean(axis=(1, 3))
    image = painted + (1 - coverage)[..., None] * _background(background, camera, solids, size_px)
    first = (slice(None, None, oversample), slice(None, None, oversample))
    return Render(
        image=(np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8),
        mask=coverage >= 0.5,
        parts=parts[first],
        local=local[first],
        depth=depth[first],
        camera=camera,
        solids=solids,
    )


def _cast(solids: tuple[Solid, ...], camera: Camera, rays: Array) -> tuple[Array, Array, Array]:
    """Nearest hits of all rays: depth, index of the solid (-1 for none), normal."""
    size = rays.shape[0]
    depth = np.full((size, size), FAR, dtype=np.float32)
    parts = np.full((size, size), -1, dtype=np.int16)
    normals = np.zeros((size, size, 3), dtype=np.float32)
    for index, solid in enumerate(solids):
        rows, columns = _rectangle(camera, solid, size)
        if rows.start >= rows.stop or columns.start >= columns.stop:
            continue
        window = rays[rows, columns]
        distance, normal = intersect(solid, camera.eye, window.reshape(-1, 3))
        distance = distance.reshape(window.shape[:2])
        nearer = distance < depth[rows, columns]
        depth[rows, columns][nearer] = distance[nearer]
        normals[rows, columns][nearer] = normal.reshape(window.shape)[nearer]
        parts[rows, columns][nearer] = index
    return depth, parts, normals


def correspondences(source: Render, target: Render, *, tolerance: float = 0.03) -> Array:
    """Exact matches between two renders of one identity: (M, 4) rows (source y, source x, target y, target x).

    A source pixel's surface point is carried by its part's frame into the target's world, projected, and kept where
    the target shows the same part at the same depth (within `tolerance`, world units).
    """
    size = source.parts.shape[0]
    ys, xs = np.nonzero(source.parts >= 0)
    matches = []
    for index, solid in enumerate(target.solids):
        here = source.parts[ys, xs] == index
        if not here.any():
            continue
        world = solid.to_world(source.local[ys[here], xs[here]])
        x, y, distance = target.camera.project(world)
        column = np.floor((x + 1) / 2 * size).astype(int)
        row = np.floor((y + 1) / 2 * size).astype(int)
        inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
        row_in, column_in = np.clip(row, 0, size - 1), np.clip(column, 0, size - 1)
        same_part = target.parts[row_in, column_in] == index
        same_depth = np.abs(target.depth[row_in, column_in] - distance) < tolerance
        good = inside & same_part & same_depth
        matches.append(np.stack([ys[here][good], xs[here][good], row[good], column[good]], axis=1))
    return np.concatenate(matches) if matches else np.zeros((0, 4), dtype=int)


def _rectangle(camera: Camera, solid: Solid, size: int) -> tuple[slice, slice]:
    """Pixel window that holds the solid's bounding ball."""
    centre, radius = solid.bounding_ball
    x, y, distance = camera.project(centre[None])
    reach = radius / np.sqrt(max(float(distance[0]) ** 2 - radius**2, 0.1)) * camera.zoom * 1.12
    low_x, high_x = ((float(x[0]) + sign * reach + 1) / 2 * size for sign in (-1, 1))
    low_y, high_y = ((float(y[0]) + sign * reach + 1) / 2 * size for sign in (-1, 1))

    def clip(low: float, high: float) -> slice:
        return slice(max(int(low) - 1, 0), min(int(high) + 2, size))

    return clip(low_y, high_y), clip(low_x, high_x)


def _paint(identity: Identity, solid: Solid, local: Array) -> Array:
    """Surface colours; the pattern lives in the part's own coordinates, so that it turns with the figure."""
    slots = {"white": (0.95, 0.94, 0.91), "dark": (0.08, 0.08, 0.10)}
    for slot in ("primary", "secondary", "accent"):
        slots[slot] = COLOURS[getattr(identity, slot)]
    first = np.array(slots["primary" if solid.colour == "pattern" else solid.colour], dtype=np.float32)
    if solid.colour != "pattern" or identity.pattern == "plain":
        return np.broadcast_to(first, local.shape)
    second = np.array(slots["secondary"], dtype=np.float32)
    if identity.pattern == "striped":
        along = local[:, 0] if solid.kind == "cone" or solid.radii[0] >= solid.radii[1] else local[:, 1]
        is_second = np.sin(along * 15.0 + 0.8) > 0.15
    elif identity.pattern == "spotted":
        cell = local / 0.30 + np.array([0.5, 0.25, 0.5])
        is_second = np.linalg.norm(cell - np.floor(cell) - 0.5, axis=1) < 0.40
    else:  # two-tone: belly against back
        is_second = (
            (local[:, 1] < -0.02) if solid.kind == "ellipsoid" else (local[:, 0] > solid.radii[2] * 0.5)
        )
    return np.where(is_second[:, None], second, first)


def _shade(albedo: Array, normal: Array, ray: Array, point: Array, gloss: float) -> Array:
    """Lambert and sky light with a soft highlight, the look of painted wood."""
    lambert = np.maximum(normal @ LIGHT, 0)
    sky = 0.5 + 0.5 * normal[:, 1]
    near_floor = np.clip(point[:, 1] / 0.35, 0, 1)
    light = (0.30 + 0.26 * sky) * (0.72 + 0.28 * near_floor) + 0.52 * lambert
    half = LIGHT - ray
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    shine = np.maximum(np.einsum("nc,nc->n", normal, half), 0) ** 40
    rim = (1 - np.maximum(-np.einsum("nc,nc->n", normal, ray), 0)) ** 3 * 0.10
    return albedo * light[:, None] + (shine * gloss + rim * sky)[:, None]


def _background(name: str, camera: Camera, solids: tuple[Solid, ...], size: int) -> Array:
    """Floor with the figure's soft shadow, fading into a paler wall."""
    rays = camera.rays(size)
    floor = np.array(BACKGROUNDS[name], dtype=np.float32)
    wall = floor * 0.45 + 0.55 * np.array([1.0, 0.99, 0.97], dtype=np.float32)
    down = rays[..., 1]
    reach = np.where(down < -0.02, -camera.eye[1] / np.minimum(down, -0.02), 60.0)
    fade = np.clip((reach - 7.0) / 9.0, 0, 1)[..., None]
    shadow = _shadow(rays, reach, camera, solids)
    return (floor * (1 - 0.42 * shadow[..., None])) * (1 - fade) + wall * fade


def _shadow(rays: Array, reach: Array, camera: Camera, solids: tuple[Solid, ...]) -> Array:
    """Share of the light kept from each floor point, at half the resolution and smoothed."""
    size, step = rays.shape[0], 2
    rays, reach = rays[step // 2 :: step, step // 2 :: step], reach[step // 2 :: step, step // 2 :: step]
    points = (camera.eye + rays * reach[..., None]).reshape(-1, 3)
    near = np.linalg.norm(points[:, [0, 2]], axis=1) < 3.0
    blocked = np.zeros(len(points), dtype=bool)
    toward_light = np.broadcast_to(LIGHT, points.shape)
    for solid in solids:
        centre, radius = solid.bounding_ball
        offset = points - centre
        along = offset @ LIGHT
        miss = np.einsum("nc,nc->n", offset, offset) - along**2
        ask = near & ~blocked & (miss < radius * radius)
        if ask.any():
            distance, _ = intersect(solid, points[ask], toward_light[ask])
            blocked[ask] = distance < FAR
    small: Array = blocked.reshape(rays.shape[:2]).astype(np.float32)
    edge = small.shape[0]
    for _ in range(2):  # a 3 x 3 box twice: a soft edge
        padded = np.pad(small, 1, mode="edge")
        shifted = [padded[i : i + edge, j : j + edge] for i in range(3) for j in range(3)]
        small = np.stack(shifted).mean(axis=0)
    return _enlarge(small, size)


def _enlarge(small: Array, size: int) -> Array:
    """Bilinear enlargement of a square array."""
    position = np.clip((np.arange(size) + 0.5) * small.shape[0] / size - 0.5, 0, small.shape[0] - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, small.shape[0] - 1)
    share = (position - low).astype(np.float32)
    rows = small[low] * (1 - share)[:, None] + small[high] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, high] * share
