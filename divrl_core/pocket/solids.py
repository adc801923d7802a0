"""Solids of the toy figures and their ray intersections, in closed form.

Two shapes are enough: ellipsoids, and round cones (the hull of two balls; equal radii make a capsule). Each carries a
rigid frame, so that a surface point has coordinates that no pose changes: exact correspondences, and patterns that
stay on the figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
FAR = np.float32(1e9)


@dataclass(frozen=True, kw_only=True)
class Solid:
    """One part in world coordinates, in P poses. `frame` (P, 3, 3) has the part's axes as columns, `origin` (P, 3)."""

    part: str
    colour: str  # slot: primary, secondary, accent, dark, white, pattern
    origin: Array
    frame: Array
    radii: Array  # ellipsoid: three half axes; round cone: (start radius, end radius, length along frame's x)
    kind: str = "ellipsoid"  # or "cone"

    @property
    def local_ball(self) -> tuple[Array, float]:
        """Centre, in the part's own frame, and radius of a ball that holds the solid."""
        if self.kind == "ellipsoid":
            return np.zeros(3, dtype=np.float32), float(self.radii.max())
        start, end, length = self.radii
        middle = np.array([length / 2, 0, 0], dtype=np.float32)
        return middle, float(length / 2 + max(start, end))

    def to_local(self, points: Array, pose: int | Array = 0) -> Array:
        """World points (N, 3) in the part's own frame, of one pose or of a pose each (N,)."""
        return turned(points - self.origin[pose], self.frame[pose])

    def to_world(self, local: Array, pose: int | Array = 0) -> Array:
        """The inverse of `to_local`."""
        return turned(local, self.frame[pose].swapaxes(-1, -2)) + self.origin[pose]

    @property
    def centres(self) -> Array:
        """The middles (P, 3) of the bounding balls in the world."""
        return self.origin + self.frame @ self.local_ball[0]

    def near(self, starts: Array, rays: Array) -> tuple[Array, Array]:
        """Pose and ray (N,) of those rays (P, R, 3) from `starts` (P, R, 3) that pass through the bounding ball."""
        offsets = self.centres[:, None] - starts
        along = np.einsum("prc,prc->pr", offsets, rays)
        miss = np.einsum("prc,prc->pr", offsets, offsets) - along**2
        pose, ray = np.nonzero(miss < self.local_ball[1] ** 2)
        return pose, ray

    def hit(self, pose: Array, starts: Array, rays: Array) -> tuple[Array, Array]:
        """First hits of rays (N, 3) from `starts` (N, 3), in a pose each (N,).

        Returns distances (N,), FAR where missed, and unit normals (N, 3) in the part's own frame.
        """
        which = 0 if len(self.frame) == 1 else pose  # one frame for all is the faster product
        start, ray = self.to_local(starts, which), turned(rays, self.frame[which])
        if self.kind == "ellipsoid":
            return _hit_ellipsoid(start, ray, self.radii)
        return _hit_cone(start, ray, *self.radii)


def turned(vectors: Array, frames: Array) -> Array:
    """Row vectors (N, 3) times frames, one for all (3, 3) or one each (N, 3, 3)."""
    return vectors @ frames if frames.ndim == 2 else np.einsum("nc,ncd->nd", vectors, frames)


def _hit_ellipsoid(origin: Array, direction: Array, radii: Array) -> tuple[Array, Array]:
    """Unit-ball quadratic in coordinates divided by the half axes."""
    scaled_origin, scaled_direction = origin / radii, direction / radii
    a = np.einsum("nc,nc->n", scaled_direction, scaled_direction)
    b = np.einsum("nc,nc->n", scaled_origin, scaled_direction)
    c = np.einsum("nc,nc->n", scaled_origin, scaled_origin) - 1
    root = b * b - a * c
    distance = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, FAR)
    distance = np.where(distance > 1e-4, distance, FAR)
    normal = (scaled_origin + distance[:, None] * scaled_direction) / radii
    return distance, _unit(normal)


def _hit_cone(origin: Array, direction: Array, r_0: float, r_1: float, length: float) -> tuple[Array, Array]:
    """Round cone along x from a ball of radius r_0 at 0 to a ball of radius r_1 at `length`.

    A surface point of the side satisfies (slant^2)(|p|^2 - x^2) = ... ; with slope k = (r_0 - r_1) / length the side
    is the cone sqrt(y^2 + z^2) cos = r_0 - x sin, sin = k, between the two circles where it touches the balls.
    """
    sin = (r_0 - r_1) / length
    cos = np.sqrt(max(1 - sin * sin, 1e-6))
    # side: (y^2 + z^2) cos^2 = (r_0 - x sin)^2
    slope_o = r_0 - origin[:, 0] * sin
    slope_d = -direction[:, 0] * sin
    a = cos * cos * (direction[:, 1] ** 2 + direction[:, 2] ** 2) - slope_d**2
    b = cos * cos * (origin[:, 1] * direction[:, 1] + origin[:, 2] * direction[:, 2]) - slope_o * slope_d
    c = cos * cos * (origin[:, 1] ** 2 + origin[:, 2] ** 2) - slope_o**2
    root = b * b - a * c
    a = np.where(np.abs(a) < 1e-9, 1e-9, a)
    side = (-b - np.sqrt(np.maximum(root, 0))) / a
    point = origin + side[:, None] * direction
    is_side = (root > 0) & (side > 1e-4) & (point[:, 0] > r_0 * sin) & (point[:, 0] < length + r_1 * sin)
    radial = point.copy()
    radial[:, 0] = 0
    side_normal = _unit(radial) * cos
    side_normal[:, 0] = sin
    distance = np.where(is_side, side, FAR)
    normal = side_normal
    # the two balls
    for centre_x, radius in ((0.0, r_0), (length, r_1)):
        shifted = origin - np.array([centre_x, 0, 0], dtype=origin.dtype)
        half_b = np.einsum("nc,nc->n", shifted, direction)
        root = half_b**2 - np.einsum("nc,nc->n", shifted, shifted) + radius * radius
        ball = np.where(root > 0, -half_b - np.sqrt(np.maximum(root, 0)), FAR)
        ball = np.where(ball > 1e-4, ball, FAR)
        nearer = ball < distance
        distance = np.where(nearer, ball, distance)
        hit = np.where(nearer[:, None], (shifted + ball[:, None] * direction) / radius, 0)
        normal = np.where(nearer[:, None], hit, normal)
    return distance, normal


def _unit(vectors: Array) -> Array:
    return vectors / np.sqrt(np.maximum(np.einsum("nc,nc->n", vectors, vectors), 1e-18))[:, None]


def rotation(axis: str, degrees: float | Array) -> Array:
    """Rotation matrix about x, y or z, right-handed: (3, 3), or (P, 3, 3) for angles (P,)."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.zeros((*np.shape(angle), 3, 3))
    matrix[..., range(3), range(3)] = 1
    matrix[..., first, first] = matrix[..., second, second] = cos
    matrix[..., first, second], matrix[..., second, first] = -sin, sin
    return matrix
