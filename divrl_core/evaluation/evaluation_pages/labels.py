"""Names beside points so that no name lies on another, on a point, on an error bar or over the edge, if that can be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_RADII_PX = (15, 24, 36, 50, 68, 90, 116)
_DIRECTIONS = 16
_NEAR_PX = 24  # beyond, a line leads from the name to its point


@dataclass(frozen=True)
class Box:
    """Upright, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: Box) -> float:
        """The area that two share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return across * up if across > 0 and up > 0 else 0.0

    def outside(self, frame: Box) -> float:
        """The area that lies beyond a frame."""
        return (self.right - self.left) * (self.top - self.bottom) - self.overlap(frame)


@dataclass(frozen=True, kw_only=True)
class Label:
    """offset: from the point to the middle of its name. box: where the name lies. is_far: it needs a line."""

    offset: tuple[float, float]
    box: Box
    is_far: bool


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    frame: Box,
) -> list[Label]:
    """A label for every point, nearest first, the most crowded points before the others.

    sizes: (width, height) of each name. taken: boxes of points and error bars.
    """

    def crowd(place: int) -> float:
        x, y = points[place]
        return sum(1 / (1 + math.hypot(x - p, y - q)) for p, q in points)

    found: dict[int, Label] = {}
    for place in sorted(range(len(points)), key=crowd, reverse=True):
        others = [*taken, *(label.box for label in found.values())]
        candidates = _candidates(points[place], sizes[place])
        found[place] = min(candidates, key=lambda label: _cost(label, others, frame))
    return [found[place] for place in range(len(points))]


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> list[Label]:
    (x, y), (width, height) = point, size
    labels = []
    for radius in _RADII_PX:
        for step in range(_DIRECTIONS):
            angle = (step + 0.5) * 2 * math.pi / _DIRECTIONS
            # The name's edge, not its middle, keeps the distance.
            dx = math.cos(angle) * (radius + width / 2)
            dy = math.sin(angle) * (radius + height / 2)
            box = Box(x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2)
            labels.append(Label(offset=(dx, dy), box=box, is_far=radius > _NEAR_PX))
    return labels


def _cost(label: Label, others: Sequence[Box], frame: Box) -> tuple[float, float]:
    """What lies over something first, then the distance."""
    covered = sum(label.box.overlap(other) for other in others) + 4 * label.box.outside(frame)
    return round(covered, 3), math.hypot(*label.offset)
