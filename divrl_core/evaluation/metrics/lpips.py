"""LPIPS: how differently a picture looks than its reference, and than the other pictures of its question.

    LPIPS(a, b) = sum over layers l of mean over places of sum_c w_lc (a_l - b_l)^2        arXiv:1801.03924, eq. 1

a_l, b_l: AlexNet's maps after each ReLU, each cell of length 1 over its channels; w: the published heads. Both
pictures are shown as squares of 256 px, so that the value does not hang on their size: a square picture with its
reference framed as in training, others resized, aspect not kept. In arXiv:2606.23950 a measure of diversity: higher =
more different.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ...models.features.alexnet import LpipsNetwork, load_lpips
from ...training.pictures import picture_tensor
from .base import Metric, Shot, Subject, Values
from .shown import reference_at
from .within_set import mean_pairwise, questions_of

SIDE_PX = 256
LPIPS = Metric(
    name="lpips",
    label="LPIPS",
    meaning="perceptual distance to the reference, whole pictures",
    better="higher",
    family="structure",
)
SET_LPIPS = Metric(
    name="set_lpips",
    label="LPIPS within the set",
    meaning="mean perceptual distance between the pictures of one question",
    better="higher",
    family="within the set",
    of_sets=True,
)

Maps = tuple[Tensor, ...]


def lpips_distance(first: Maps, second: Maps, heads: Sequence[Tensor]) -> Tensor:
    """LPIPS of maps (B, C, h, w), one of each layer, with the same of B or of one picture: (B,), at least 0, float32.

    heads: (C,) of each layer.
    """
    parts = [
        torch.einsum("bchw,c->bhw", (ours - theirs).square(), weights).mean(dim=(1, 2))
        for ours, theirs, weights in zip(first, second, heads, strict=True)
    ]
    return torch.stack(parts).sum(dim=0)


@dataclass
class PreparedMaps:
    """A reference's maps, made once for square pictures and once for others."""

    subject: Subject
    maps: dict[bool, Maps] = field(default_factory=dict)


class LpipsScorer:
    """LPIPS to the reference and within the set. origin: where AlexNet's weights are from."""

    name = "lpips"
    metrics = (LPIPS, SET_LPIPS)

    def __init__(self, network: LpipsNetwork, *, origin: str) -> None:
        self._network, self._origin = network, origin

    @classmethod
    def load(cls, path: str | None = None, *, device: str = "cpu") -> LpipsScorer:
        """AlexNet's weights from a file or folder; None = torch's cache. Raises as `load_lpips` does."""
        network = load_lpips(path).to(device)
        return cls(network, origin="torch's cache" if path is None else Path(path).name)

    @staticmethod
    def check(path: str | None = None, *, downloads: bool = False) -> None:
        """Raise, in one line, where weights are not there or another network's; they are read, nothing is fetched."""
        load_lpips(path)

    @property
    def source(self) -> str:
        """The networks and what they are shown."""
        return (
            f"LPIPS, AlexNet ({self._origin}) under the published heads, pictures as squares of {SIDE_PX} px"
        )

    def prepare(self, subject: Subject) -> PreparedMaps:
        """Nothing goes through the network before it is known whether the pictures are square; then once."""
        return PreparedMaps(subject)

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Both; the set's is left out where every picture stands alone."""
        assert isinstance(prepared, PreparedMaps)
        heads, sets = list(self._network.heads), questions_of(shots)
        to_reference, apart = torch.full((len(shots),), torch.nan), []
        for rows in sets:  # a question at a time: the maps of a picture are 2.6 MB
            maps = [self._maps(shots[row].picture) for row in rows]
            for row, own in zip(rows, maps, strict=True):
                reference = self._reference(prepared, shots[row].picture)
                to_reference[row] = float(lpips_distance(own, reference, heads))
            apart.append(_mean_apart(maps, heads))
        values = {LPIPS.name: to_reference}
        has_sets = any(len(rows) > 1 for rows in sets)
        return {**values, SET_LPIPS.name: torch.tensor(apart)} if has_sets else values

    def _reference(self, prepared: PreparedMaps, picture: Image.Image) -> Maps:
        is_square = picture.width == picture.height
        if is_square not in prepared.maps:
            if is_square:
                framed = reference_at(prepared.subject, (SIDE_PX, SIDE_PX)).image[None]
                prepared.maps[True] = self._network.maps(framed.to(self._device))
            else:
                prepared.maps[False] = self._maps(prepared.subject.picture)
        return prepared.maps[is_square]

    def _maps(self, picture: Image.Image) -> Maps:
        return self._network.maps(_square(picture)[None].to(self._device))

    @property
    def _device(self) -> torch.device:
        return self._network.heads[0].device


def _square(picture: Image.Image) -> Tensor:
    rgb = picture.convert("RGB")
    if rgb.size != (SIDE_PX, SIDE_PX):
        rgb = rgb.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return picture_tensor(rgb)


def _mean_apart(maps: Sequence[Maps], heads: Sequence[Tensor]) -> float:
    return mean_pairwise(
        range(len(maps)), lambda first, second: float(lpips_distance(maps[first], maps[second], heads))
    )
