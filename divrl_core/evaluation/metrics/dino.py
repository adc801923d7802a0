"""DINO: is the whole picture like the whole reference?

    DINO = cos(class token of the picture, class token of the reference)

of DINOv2-base after its last norm, no mask (arXiv:2606.23950, appendix B). As DreamBench++ (arXiv:2406.16855)
measures it with DINOv2, not times 100: pictures as DINOv2's own processor crops them (shorter edge to 256 px, the
middle 224 px). Beside it, where the subject has further pictures, copy-paste by the same vectors (copy_paste.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...models.features.dino_class import DEFAULT, PURPOSE, DinoClass
from ...models.features.vision_files import known_files
from .base import Metric, Shot, Subject, Values
from .clip import cosines
from .copy_paste import copy_columns, copy_metrics

PREFIX = "dino_"
DINO = Metric(
    name="dino",
    label="DINO",
    meaning="cosine of the class tokens of the whole picture and the whole reference",
    better="higher",
    family="identity",
)


@dataclass(frozen=True)
class PreparedTokens:
    """The class tokens of a reference (1, D) and of the subject's further pictures (V, D)."""

    reference: Tensor
    views: Tensor


class DinoScorer:
    """DINO, and copy-paste by DINO."""

    name = "dino"
    metrics = (DINO, *copy_metrics(PREFIX, "DINO"))

    def __init__(self, dino: DinoClass) -> None:
        self._dino = dino

    @classmethod
    def load(cls, path: str | None = None, *, device: str = "cpu") -> DinoScorer:
        """From a folder or hub id; None = DINOv2-base. Raises as `DinoClass.load` does."""
        return cls(DinoClass.load(path, device=device))

    @staticmethod
    def check(path: str | None = None, *, downloads: bool = False) -> None:
        """Raise, in one line, where the files are known not to be a DINOv2's; a hub id is fetched or passed over."""
        known_files(PURPOSE, path or DEFAULT, downloads=downloads)

    @property
    def source(self) -> str:
        """The model's origin and what it is shown."""
        return f"DINOv2 class token ({self._dino.origin}), {self._dino.processor.about}"

    def prepare(self, subject: Subject) -> PreparedTokens:
        """The class tokens of the reference and of its views."""
        tokens = self._dino.pictures([subject.picture, *(view.load() for view in subject.views)])
        return PreparedTokens(tokens[:1], tokens[1:])

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """The copy measures are left out where the subject has no further view."""
        assert isinstance(prepared, PreparedTokens)
        pictures = self._dino.pictures([shot.picture for shot in shots])
        values = cosines(pictures, prepared.reference)
        copies: dict[str, Tensor] = {}
        if len(prepared.views):
            to_view = torch.stack([cosines(pictures, view) for view in prepared.views.split(1)], dim=1)
            copies = copy_columns(PREFIX, values, to_view, cosines(prepared.views, prepared.reference))
        return {name: column.cpu() for name, column in {DINO.name: values, **copies}.items()}
