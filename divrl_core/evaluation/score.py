"""Scores of pictures that lie in a folder, against the references that they should show.

A square picture is compared with its reference framed as in training (cropped to the middle square where the object
stays, else fitted inside); a picture of another shape with its reference resized to that shape.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch

from ..config import BackboneConfig, SegmenterConfig
from ..models.features.base import Backbone, load_backbone
from ..rewards.measures import measures_of
from ..rewards.score import ReferenceFeatures, reference_features, score_images
from ..training.files import write_atomic_bytes, write_atomic_text
from ..training.pictures import decode_picture, frame_to, picture_tensor
from ..training.references import DataProblems, Reference
from .score_inputs import SHEET, PictureToScore, ScoreInputs, read_inputs
from .score_results import PictureScore, ScoredFolder
from .sheets import SheetRow, contact_sheet, score_caption

BATCH_SIZE = 16
SHEET_REFERENCES, SHEET_PICTURES = 16, 8

# (reference id, (height, width)) -> the reference as pictures of that shape are compared with it
Prepared = dict[tuple[str, tuple[int, int]], tuple[Reference, ReferenceFeatures]]


def score_folder(
    images: Path,
    references: Path,
    *,
    output: Path,
    mask: Path | None = None,
    segmenter: SegmenterConfig | None = None,
    backbone: Backbone | BackboneConfig | None = None,
) -> ScoredFolder:
    """Score pictures against their references; writes `scores.csv` and `sheet.jpg` into `output`.

    How pictures, references and masks find each other: `score_inputs.py`. `segmenter`: the model that makes masks of
    references that bring none. `backbone` None: the packaged lite0; of settings it is loaded, once the pictures are
    known to be sound.
    Raises FileNotFoundError for a path that is not there, DataProblems (ValueError) with all that is wrong otherwise.
    """
    inputs = read_inputs(images, references, mask, segmenter)
    _make_masks(inputs)
    if backbone is None or isinstance(backbone, BackboneConfig):
        backbone = load_backbone(backbone or BackboneConfig())
    prepared = _prepare(inputs, backbone)
    result = ScoredFolder(
        scores=tuple(_scores(inputs, prepared, backbone)),
        backbone=backbone.source,
        mask_source=inputs.references.mask_source,
        consistency_cutoff=backbone.settings.consistency_cutoff,
        files=(output / "scores.csv", output / SHEET),
    )
    write_atomic_text(output / "scores.csv", result.csv())
    write_atomic_bytes(output / SHEET, _sheet(inputs, prepared, result))
    return result


def _make_masks(inputs: ScoreInputs) -> None:
    """Masks by a model, before the backbone is loaded. Raises DataProblems naming every picture it found nothing in."""
    masks = inputs.references.model_masks
    problems = [] if masks is None else masks.make(inputs.references.for_the_model())
    if problems:
        raise DataProblems(problems)


def _prepare(inputs: ScoreInputs, backbone: Backbone) -> Prepared:
    """Each reference at each shape it is needed in. Raises DataProblems naming every mask that is too small."""
    prepared, problems = {}, []
    for reference_id, shape in sorted({(picture.reference_id, picture.shape) for picture in inputs.pictures}):
        try:
            reference = _shaped(inputs, reference_id, shape)
            prepared[reference_id, shape] = (
                reference,
                reference_features(
                    backbone.extract(reference.image[None]),
                    reference.mask,
                    backbone.settings.score,
                    name=reference_id,
                ),
            )
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise DataProblems(problems)
    return prepared


def _scores(inputs: ScoreInputs, prepared: Prepared, backbone: Backbone) -> Iterator[PictureScore]:
    """In the order of the pictures; neighbours of one reference and shape go through the backbone together."""
    for key, run in groupby(inputs.pictures, key=lambda picture: (picture.reference_id, picture.shape)):
        pictures = list(run)
        for start in range(0, len(pictures), BATCH_SIZE):
            batch = pictures[start : start + BATCH_SIZE]
            images = torch.stack([picture_tensor(decode_picture(picture.path).rgb) for picture in batch])
            features = backbone.extract(images)
            scores = score_images(
                features, prepared[key][1], backbone.settings.score, more=measures_of(features)
            )
            for row, picture in enumerate(batch):
                yield PictureScore(
                    picture=picture.name,
                    reference=picture.reference_id,
                    nssm=float(scores.nssm[row]),
                    vsm=float(scores.vsm[row]),
                    kept_count=int(scores.kept_count[row]),
                    more={name: float(values[row]) for name, values in scores.more.items()},
                )


def _shaped(inputs: ScoreInputs, reference_id: str, shape: tuple[int, int]) -> Reference:
    """The reference for pictures of a shape (height, width)."""
    height, width = shape
    if height == width:
        return inputs.references.load(reference_id, height)
    picture, mask = inputs.references.decoded(reference_id)
    return frame_to(picture.rgb, mask, height, width)


def _sheet(inputs: ScoreInputs, prepared: Prepared, result: ScoredFolder) -> bytes:
    """The first pictures of the first references, with their scores, as a JPEG."""
    shown: dict[str, list[tuple[PictureToScore, PictureScore]]] = {}
    for picture, score in zip(inputs.pictures, result.scores, strict=True):
        shown.setdefault(picture.reference_id, []).append((picture, score))
    rows = [_sheet_row(pairs[:SHEET_PICTURES], prepared) for pairs in list(shown.values())[:SHEET_REFERENCES]]
    longest = max(len(row.results) for row in rows)
    columns = ["reference", *(f"picture {number}" for number in range(1, longest + 1))]
    sheet = contact_sheet(rows, columns=columns, title="Pictures against their references")
    content = io.BytesIO()
    sheet.save(content, "JPEG", quality=92)
    return content.getvalue()


def _sheet_row(pairs: Sequence[tuple[PictureToScore, PictureScore]], prepared: Prepared) -> SheetRow:
    first = pairs[0][0]
    return SheetRow(
        label=first.reference_id,
        reference=prepared[first.reference_id, first.shape][0].image,
        results=[decode_picture(picture.path).rgb for picture, _ in pairs],
        captions=[score_caption(score.nssm, score.vsm) for _, score in pairs],
    )
