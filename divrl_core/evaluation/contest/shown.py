"""What scorers are shown: references as models were shown them, and pictures from disk with their masks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...config import SegmenterConfig
from ...training.model_masks import ModelMasks
from ...training.picture_references import (
    BY_MODEL,
    CheckedSource,
    PictureFile,
    PictureSource,
    digest_of_picture,
)
from ...training.pictures import Picture, decode_picture
from ...training.processes import Processes
from ..benchmarks.base import Benchmark, PictureName, Question
from ..metrics.base import Shot, Subject
from ..sheets import to_picture
from .evaluated import PICTURES

logger = logging.getLogger("divrl")


@dataclass(frozen=True)
class Shown:
    """An evaluation's references and pictures. masks: of the generated pictures; None = they have none."""

    benchmark: Benchmark
    size_px: int
    output: Path
    masks: ModelMasks | None = None

    @property
    def mask_words(self) -> str:
        """Where masks come from, for the reader of a table."""
        pictures = "none of the pictures" if self.masks is None else f"the pictures' by {self.masks.name}"
        return f"the references' {self.benchmark.references.mask_source}, {pictures}"

    def subject(self, reference_id: str) -> Subject:
        """The reference at the pictures' size, with its other pictures."""
        reference = self.benchmark.references.load(reference_id, self.size_px)
        return Subject(
            reference_id=reference_id,
            picture=to_picture(reference.image),
            mask=reference.mask,
            views=self.benchmark.views.get(reference_id, ()),
        )

    def shots(self, model: str, question: Question, pictures_each: int) -> list[Shot]:
        """A model's pictures for a question, in order. Raises ValueError or FileNotFoundError naming a damaged one."""
        found = []
        for k in range(pictures_each):
            name = PictureName(reference_id=question.reference_id, number=question.number, k=k)
            picture = read_picture(self.output / PICTURES / model / name.file)
            found.append(Shot(picture=picture.rgb, question=question, k=k, mask=self._mask(picture)))
        return found

    def make_masks(
        self, models: Iterable[str], names: Sequence[PictureName], cache: Path, processes: Processes
    ) -> None:
        """Make the masks of these pictures that are not in the cache; the processes of a machine share the work.

        A picture in which no subject is found has no mask, and the log counts these.
        """
        if self.masks is None:
            return
        items = [_source(self.output / PICTURES / model / name.file) for model in models for name in names]
        part = (processes.local_index, processes.local_count)
        empty = self.masks.make(
            items, folder=cache, device=processes.device, part=part, is_quiet=not processes.is_main
        )
        if count := len(processes.gather(list(empty))):
            logger.info("%d pictures in which no subject was found: these have no mask", count)

    def _mask(self, picture: Picture) -> Tensor | None:
        if self.masks is None:
            return None
        mask = torch.from_numpy(self.masks.read(digest_of_picture(picture)))
        return mask if bool(mask.any()) else None


def segmenter_of(config: SegmenterConfig | None) -> ModelMasks | None:
    """What makes masks of generated pictures; None where the settings name no model."""
    return None if config is None or config.model is None else ModelMasks(config)


def read_picture(path: Path) -> Picture:
    """A picture of the evaluation. Raises FileNotFoundError or ValueError with its path."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such picture; the same command makes it again")
    try:
        return decode_picture(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it, and the same command makes it again") from error


def _source(path: Path) -> CheckedSource:
    file = PictureFile(where=str(path), read=lambda: path)
    source = PictureSource(reference_id=path.stem, captions=(), picture=file)
    return CheckedSource(source, BY_MODEL, digest_of_picture(read_picture(path)))
