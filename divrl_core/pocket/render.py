"""A small ray caster for the pocket world: picture, exact mask, part map and surface coordinates in one pass.

Many poses of one figure are drawn at a time. Each solid is met only by the rays in the rectangle of its bounding ball;
the nearest hit is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .figures import BACKGROUNDS, Identity, Poses, Structure
from .plans import build_figure
from .shading import paint, pixel_filter, shade
from .solids import FAR, Array, Solid, turned

VIEW_ANGLE_DEG = 30.0
CAMERA_DISTANCE = 5.6
# each plan fills the frame: height of the point looked at (world units) and size on the picture
LOOK_AT_HEIGHT = {
    "fox": 1.08,
    "bear": 1.02,
    "rabbit": 1.12,
    "elephant": 0.97,
    "giraffe": 1.10,
    "duck": 0.92,
    "robot": 1.12,
    "dinosaur": 1.04,
}
PLAN_SCALE = {
    "fox": 1.18,
    "bear": 1.26,
    "rabbit": 1.15,
    "elephant": 1.26,
    "giraffe": 1.18,
    "duck": 1.34,
    "robot": 1.16,
    "dinosaur": 1.16,
}  # fmt: skip
LAMP = (0.30, 0.84, 0.45)  # to the right, upwards, towards the eye: the lamp stands by the camera


@dataclass(frozen=True)
class Render:
    """One picture with its truth. Pixel arrays are (size, size, ...)."""

    image: Array  # (H, W, 3) uint8 sRGB
    mask: Array  # (H, W) bool: the figure
    parts: Array  # (H, W) int16: index of the solid seen, -1 elsewhere
    local: Array  # (H, W, 3) float32: surface point in that solid's own frame
    depth: Array  # (H, W) float32: distance along the ray, FAR where no figure is
    cameras: Cameras
    solids: tuple[Solid, ...]


@dataclass(frozen=True)
class Cameras:
    """P pinholes: `eye` (P, 3), `axes` (P, 3, 3) rows right, up, forward; `offset` (P, 2) in half-widths."""

    eye: Array
    axes: Array
    zoom: Array
    offset: Array
    lamp: tuple[float, float, float]

    @classmethod
    def of(cls, identity: Identity, poses: Poses, lamp: tuple[float, float, float] = LAMP) -> Cameras:
        """Azimuth and elevation round the figure, scale and place in the frame."""
        azimuth, elevation = np.deg2rad(poses.azimuth), np.deg2rad(poses.elevation)
        cos, level = np.cos(elevation), np.zeros_like(azimuth)
        outward = np.stack([cos * np.cos(azimuth), np.sin(elevation), -cos * np.sin(azimuth)], axis=-1)
        right = np.stack([-np.sin(azimuth), level, -np.cos(azimuth)], axis=-1)
        target = np.array([0.0, LOOK_AT_HEIGHT[identity.plan], 0.0])
        zoom = poses.scale * PLAN_SCALE[identity.plan] / np.tan(np.deg2rad(VIEW_ANGLE_DEG / 2))
        return cls(
            eye=(target + CAMERA_DISTANCE * outward).astype(np.float32),
            axes=np.stack([right, np.cross(outward, right), -outward], axis=1).astype(np.float32),
            zoom=zoom.astype(np.float32),
            offset=2 * np.stack([poses.shift_x, poses.shift_y], axis=-1).astype(np.float32),
            lamp=lamp,
        )

    @property
    def light(self) -> Array:
        """Unit vectors (P, 3) towards the lamp, which goes round the figure with the camera."""
        up = np.array([0.0, 1.0, 0.0], dtype=np.float32)
        right = self.axes[:, 0]
        light = self.lamp[0] * right + self.lamp[1] * up + self.lamp[2] * np.cross(right, up)
        return (light / np.linalg.norm(light, axis=-1, keepdims=True)).astype(np.float32)

    def rays(self, size: int) -> Array:
        """Unit ray directions (P, size * size, 3), row by row from the top."""
        steps = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
        across = (steps[None, :] - self.offset[:, :1]) / self.zoom[:, None]
        upward = (-steps[None, :] - self.offset[:, 1:]) / self.zoom[:, None]
        local = np.ones((len(self.eye), size, size, 3), dtype=np.float32)
        local[..., 0], local[..., 1] = across[:, None, :], upward[:, :, None]
        local /= np.linalg.norm(local, axis=-1, keepdims=True)
        return local.reshape(len(self.eye), -1, 3) @ self.axes

    def window(self, solid: Solid, size: int) -> tuple[Array, Array]:
        """Pose and pixel (N,) of the rectangles that hold the solid's bounding ball in a picture of `size`."""
        seen = np.einsum("pc,pdc->pd", solid.centres - self.eye, self.axes)
        radius = solid.local_ball[1]
        gap = np.sqrt(np.maximum((seen**2).sum(axis=1) - radius**2, 0.1))
        reach = radius / gap * self.zoom * 1.12
        middle = seen[:, :2] / seen[:, 2:] * self.zoom[:, None] + self.offset
        middle[:, 1] *= -1
        low = np.clip((middle - reach[:, None] + 1) / 2 * size - 1, 0, size).astype(int)
        high = np.clip((middle + reach[:, None] + 1) / 2 * size + 2, 0, size).astype(int)
        width, height = (high - low).T
        counts = width * height
        pose = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(pose)) - np.repeat(np.cumsum(counts) - counts, counts)
        row, column = place // width[pose] + low[pose, 1], place % width[pose] + low[pose, 0]
        return pose, row * size + column

    def project(self, points: Array, pose: int = 0) -> tuple[Array, Array, Array]:
        """World points (N, 3) to picture coordinates x, y in [-1, 1] (y down) and distance from the eye."""
        seen = (points - self.eye[pose]) @ self.axes[pose].T
        forward = np.maximum(seen[:, 2], 1e-6)
        x = seen[:, 0] / forward * self.zoom[pose] + self.offset[pose, 0]
        y = -(seen[:, 1] / forward * self.zoom[pose] + self.offset[pose, 1])
        return x, y, np.linalg.norm(points - self.eye[pose], axis=-1)


@dataclass(frozen=True)
class Layers:
    """P pictures of one figure before they are put on a floor; all (P, H, W, ...)."""

    figure: Array  # light from the figure, 0 elsewhere
    coverage: Array  # share of each pixel that the figure covers
    shadow: Array
    fade: Array  # 0 floor, 1 wall

    def over(self, background: str | Sequence[str]) -> Array:
        """Pictures (P, H, W, 3) float32 in [0, 1], on one floor or each on its own.

        The floor has a soft shadow and fades into a paler wall.
        """
        names = [background] if isinstance(background, str) else background
        floor = np.array([BACKGROUNDS[name] for name in names], dtype=np.float32)[:, None, None]
        wall = floor * 0.45 + 0.55 * np.array([1.0, 0.99, 0.97], dtype=np.float32)
        fade = self.fade[..., None]
        behind = floor * (1 - 0.42 * self.shadow[..., None]) * (1 - fade) + wall * fade
        image = pixel_filter(self.figure + (1 - self.coverage)[..., None] * behind)
        return np.clip(image, 0, 1)


def render(
    identity: Identity,
    structure: Structure,
    background: str,
    *,
    size_px: int = 128,
    oversample: int = 2,
    lamp: tuple[float, float, float] = LAMP,
) -> Render:
    """Draw a figure, anti-aliased by `oversample` squared rays a pixel; `lamp` points right, up and to the eye.

    The mask holds the pixels whose rays hit the figure at least half the time; part map, coordinates and depth are
    those of a pixel's first ray.
    """
    poses = Poses.of([structure])
    solids, cameras = build_figure(identity, poses), Cameras.of(identity, poses, lamp)
    seen = _cast(solids, cameras, size_px * oversample)
    layers, local = _lay(identity, solids, cameras, seen, size_px, oversample)
    edge = size_px * oversample
    first = (slice(None, None, oversample), slice(None, None, oversample))
    return Render(
        image=(layers.over(background)[0] * 255 + 0.5).astype(np.uint8),
        mask=layers.coverage[0] >= 0.5,
        parts=seen.parts.reshape(edge, edge)[first],
        local=local.reshape(edge, edge, 3)[first],
        depth=seen.depth.reshape(edge, edge)[first],
        cameras=cameras,
        solids=tuple(solids),
    )


def render_layers(
    identity: Identity, poses: Poses, *, size_px: int, oversample: int = 1, with_shadow: bool = True
) -> Layers:
    """One figure in P poses, each as `render` draws it, to be put on any floor."""
    solids, cameras = build_figure(identity, poses), Cameras.of(identity, poses)
    seen = _cast(solids, cameras, size_px * oversample)
    return _lay(identity, solids, cameras, seen, size_px, oversample, with_shadow=with_shadow)[0]


@dataclass(frozen=True)
class _Seen:
    """What P x R rays (P, R, 3) met first: distance, index of the solid (-1: none), normal in its own frame."""

    rays: Array
    depth: Array
    parts: Array
    normals: Array


def _cast(solids: Sequence[Solid], cameras: Cameras, edge: int) -> _Seen:
    """Send edge x edge rays through every camera."""
    rays = cameras.rays(edge)
    depth = np.full(rays.shape[:2], FAR, dtype=np.float32)
    parts = np.full(rays.shape[:2], -1, dtype=np.int16)
    normals = np.zeros_like(rays)
    for index, solid in enumerate(solids):
        pose, ray = cameras.window(solid, edge)
        distance, normal = solid.hit(pose, cameras.eye[pose], rays[pose, ray])
        nearer = distance < depth[pose, ray]
        place = pose[nearer], ray[nearer]
        depth[place], normals[place], parts[place] = distance[nearer], normal[nearer], index
    return _Seen(rays, depth, parts, normals)


def _lay(
    identity: Identity,
    solids: Sequence[Solid],
    cameras: Cameras,
    seen: _Seen,
    size: int,
    oversample: int,
    *,
    with_shadow: bool = True,
) -> tuple[Layers, Array]:
    """Paint and light what the rays met; also every ray's surface point in its solid's frame (P, R, 3)."""
    poses, count, _ = seen.rays.shape
    light, local, colour = cameras.light, np.zeros_like(seen.rays), np.zeros_like(seen.rays)
    flat = seen.parts.ravel()
    hits = np.flatnonzero(flat >= 0)
    hits = hits[np.argsort(flat[hits], kind="stable")]
    bounds = np.searchsorted(flat[hits], np.arange(len(solids) + 1))
    for solid, low, high in zip(solids, bounds[:-1], bounds[1:], strict=True):
        here = hits[low:high]
        pose = 0 if poses == 1 else here // count
        ray = seen.rays.reshape(-1, 3)[here]
        points = cameras.eye[pose] + ray * seen.depth.ravel()[here][:, None]
        local.reshape(-1, 3)[here] = surface = solid.to_local(points, pose)
        normal = turned(seen.normals.reshape(-1, 3)[here], solid.frame[pose].swapaxes(-1, -2))
        gloss = 0.75 if solid.colour == "dark" else 0.22
        albedo, towards = paint(identity, solid, surface), np.broadcast_to(light[pose], points.shape)
        colour.reshape(-1, 3)[here] = shade(albedo, normal, ray, points[:, 1], towards, gloss)
    blocks = (poses, size, oversample, size, oversample)
    reach = _reach(cameras, seen.rays if oversample == 1 else cameras.rays(size))
    layers = Layers(
        figure=colour.reshape(*blocks, 3).mean(axis=(2, 4)),
        coverage=(seen.parts >= 0).reshape(blocks).mean(axis=(2, 4), dtype=np.float32),
        shadow=_shadow(solids, cameras, size) if with_shadow else np.zeros((poses, size, size), np.float32),
        fade=np.clip((reach - 7.0) / 9.0, 0, 1).reshape(poses, size, size),
    )
    return layers, local


def _reach(cameras: Cameras, rays: Array) -> Array:
    """How far rays (P, R, 3) go to the floor; 60 for those that never fall."""
    down = rays[..., 1]
    return np.where(down < -0.02, -cameras.eye[:, 1:2] / np.minimum(down, -0.02), np.float32(60.0))


def _shadow(solids: Sequence[Solid], cameras: Cameras, size: int) -> Array:
    """Share of the light kept from each floor point (P, H, W), at half the resolution and smoothed."""
    edge = size // 2
    rays = cameras.rays(size).reshape(-1, size, size, 3)[:, 1::2, 1::2].reshape(-1, edge * edge, 3)
    points = cameras.eye[:, None] + rays * _reach(cameras, rays)[..., None]
    is_near = np.linalg.norm(points[..., [0, 2]], axis=-1) < 3.0  # farther off, the wall begins
    towards_light = np.broadcast_to(cameras.light[:, None], points.shape)
    blocked = np.zeros(points.shape[:2], dtype=bool)
    for solid in solids:
        pose, ray = solid.near(points, towards_light)
        distance, _ = solid.hit(pose, points[pose, ray], towards_light[pose, ray])
        blocked[pose, ray] |= distance < FAR
    small: Array = (blocked & is_near).reshape(-1, edge, edge).astype(np.float32)
    for _ in range(2):  # a 3 x 3 box twice: a soft edge
        padded = np.pad(small, ((0, 0), (1, 1), (1, 1)), mode="edge")
        shifted = [padded[:, i : i + edge, j : j + edge] for i in range(3) for j in range(3)]
        small = np.stack(shifted).mean(axis=0)
    return _enlarge(small, size)


def _enlarge(small: Array, size: int) -> Array:
    """Bilinear enlargement of square arrays (P, h, h)."""
    position = np.clip((np.arange(size) + 0.5) * small.shape[1] / size - 0.5, 0, small.shape[1] - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, small.shape[1] - 1)
    share = (position - low).astype(np.float32)
    rows = small[:, low] * (1 - share)[:, None] + small[:, high] * share[:, None]
    return rows[:, :, low] * (1 - share) + rows[:, :, high] * share
