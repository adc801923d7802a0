"""How scorers take pictures of any size: a few of one shape at once, and the reference as these are compared with it.

A square picture is compared with its reference framed as in training (training/pictures.py), a picture of another shape
with the reference resized to that shape: the rule of `divrl-train score` and of the best-of-N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...training.pictures import frame_to, picture_tensor
from ...training.references import Reference
from .base import Shot, Subject

Shape = tuple[int, int]
"""(height, width) in px."""

AT_ONCE = 16


@dataclass(frozen=True)
class Batch:
    """Pictures of one shape. rows: their places among all. images: (B, 3, H, W) in [0, 1]. masks: bool (B, H, W)."""

    rows: list[int]
    images: Tensor
    masks: Tensor | None

    @property
    def shape(self) -> Shape:
        """Theirs."""
        return self.images.shape[-2], self.images.shape[-1]


def batches(shots: Sequence[Shot], *, at_once: int = AT_ONCE) -> Iterator[Batch]:
    """All pictures, those of one shape together, with and without masks apart.

    Raises ValueError for a mask of another size than its picture.
    """
    groups: dict[tuple[Shape, bool], list[int]] = {}
    for row, shot in enumerate(shots):
        check_mask(shot)
        shape = (shot.picture.height, shot.picture.width)
        groups.setdefault((shape, shot.mask is not None), []).append(row)
    for (_, is_masked), members in groups.items():
        for start in range(0, len(members), at_once):
            rows = members[start : start + at_once]
            images = torch.stack([picture_tensor(shots[row].picture.convert("RGB")) for row in rows])
            masks = [mask for row in rows if (mask := shots[row].mask) is not None]
            yield Batch(rows, images, torch.stack(masks) if is_masked else None)


def check_mask(shot: Shot) -> None:
    """Raise ValueError, with the picture's place, where its mask is not bool of its size."""
    size = (shot.picture.height, shot.picture.width)
    if shot.mask is not None and (shot.mask.dtype != torch.bool or tuple(shot.mask.shape) != size):
        raise ValueError(
            f"{shot.question.reference_id}, prompt {shot.question.number}, picture {shot.k}: its mask must be bool "
            f"{size} as the picture is, got {shot.mask.dtype} {tuple(shot.mask.shape)}; make it at the picture's size"
        )


def reference_at(subject: Subject, shape: Shape) -> Reference:
    """The reference as pictures of a shape are compared with it. Raises ValueError naming it."""
    try:
        return frame_to(subject.picture.convert("RGB"), subject.mask.numpy(), *shape)
    except ValueError as error:
        raise ValueError(f"{subject.reference_id}: {error}") from error


def views_at(subject: Subject, shape: Shape) -> Tensor:
    """The subject's other pictures by the same rule, their masks unknown: (V, 3, H, W) in [0, 1]; V may be 0."""
    made = []
    for view in subject.views:
        rgb = view.load().convert("RGB")
        whole = torch.ones(rgb.height, rgb.width, dtype=torch.bool).numpy()
        made.append(frame_to(rgb, whole, *shape).image)
    return torch.stack(made) if made else torch.empty(0, 3, *shape)


@dataclass
class Columns:
    """Values of `count` pictures, filled in batch by batch; NaN where nothing was."""

    count: int
    found: dict[str, Tensor] = field(default_factory=dict)

    def put(self, rows: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """The values of the pictures at these places."""
        for name, column in values.items():
            whole = self.found.setdefault(name, torch.full((self.count,), torch.nan))
            whole[list(rows)] = column.detach().float().cpu()
