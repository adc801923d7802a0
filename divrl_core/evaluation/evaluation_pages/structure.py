"""Self-similarity maps of a few pictures beside their reference's (arXiv:2606.23950, figure 7).

The number under a map is nSSM by the very features that the map is drawn from, which need not be those of the table.
A reference's mask is `references/REFERENCE.mask.png`, where there is one, else the whole picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ...models.features.base import Backbone
from ...selection.judge import Judge
from ...training.pictures import picture_tensor
from ..contest.evaluated import Evaluation
from ..sheets import to_picture
from ..standings.disagreement import Disagreement
from ..structure_maps import map_picture, off_diagonal_range, self_similarity, structure_sheet
from .contact import opened

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Mapped:
    """A picture with its map. nssm: against the reference; 0 for itself."""

    name: str
    picture: Image.Image
    map: Image.Image
    nssm: float


@dataclass(frozen=True, kw_only=True)
class StructureSheet:
    """The reference, then a column a model; `sheet` has all of it as one picture.

    source: the features. is_masked: whether the reference had a mask.
    """

    prompt: str
    reference: Mapped
    columns: tuple[Mapped, ...]
    sheet: Image.Image
    source: str
    is_masked: bool

    @property
    def parts(self) -> tuple[Mapped, ...]:
        """The reference and the columns."""
        return self.reference, *self.columns


def structure_sheets(
    evaluation: Evaluation, chosen: Sequence[Disagreement], backbone: Backbone, *, pool: int = 1
) -> list[StructureSheet]:
    """A sheet for each of these that has its reference and some picture.

    pool: of nSSM's cells; 1 = none, as a table's nSSM is unless its backbone's settings say otherwise.

    Raises ValueError naming a file that cannot be read, or a mask too small to compare anything in.
    """
    sheets = []
    for one in chosen:
        reference = evaluation.reference(one.place.reference_id)
        files = {
            model.name: evaluation.picture(model.name, one.place)
            for model in evaluation.models
            if evaluation.picture(model.name, one.place).is_file()
        }
        if reference.is_file() and files:
            sheets.append(_sheet(one, reference, files, backbone, pool))
    return sheets


def _sheet(
    one: Disagreement, reference: Path, files: Mapping[str, Path], backbone: Backbone, pool: int
) -> StructureSheet:
    mask = _mask(reference)
    settings = replace(backbone.settings.score, nssm_pool=pool)
    judge = Judge(backbone, opened(reference), mask, settings=settings, name=one.place.reference_id)
    pictures = [opened(file) for file in files.values()]
    maps, scores = [], []
    for picture in pictures:
        judged = judge.score(picture_tensor(picture)[None])
        inside = judge.features((picture.height, picture.width)).structure_mask
        maps.append(self_similarity(judged.features.structure[0], inside, pool=pool))
        scores.append(float(judged.scores.nssm[0]))
    shape = pictures[0].height, pictures[0].width
    framed = to_picture(judge.reference(shape).image)
    own = self_similarity(judge.own(shape).structure[0], judge.features(shape).structure_mask, pool=pool)
    low, high = off_diagonal_range(own)
    return StructureSheet(
        prompt=one.question.prompt,
        reference=Mapped(name="reference", picture=framed, map=map_picture(own, low, high), nssm=0.0),
        columns=tuple(
            Mapped(name=name, picture=picture, map=map_picture(matrix, low, high), nssm=score)
            for name, picture, matrix, score in zip(files, pictures, maps, scores, strict=True)
        ),
        sheet=structure_sheet(framed, own, pictures, maps, scores),
        source=backbone.source,
        is_masked=mask is not None,
    )


def _mask(reference: Path) -> NDArray[np.bool_] | None:
    path = reference.with_name(f"{reference.stem}.mask.png")
    if not path.is_file():
        return None
    return np.asarray(opened(path).convert("L")) > 127
