"""Contact sheets of an evaluation: where the models differ most on a metric, failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..contest.evaluated import Evaluation
from ..metrics.base import Metric
from ..sheets import SheetRow, contact_sheet, short_number
from ..standings.disagreement import Disagreement, by_disagreement

ROWS, CELL_PX, GREY = 6, 176, (128, 128, 128)


def contact_sheets(evaluation: Evaluation, metric: Metric, *, most: int = 4) -> list[Image.Image]:
    """Up to `most` sheets of six pictures of every model, the greatest disagreement first."""
    rows = [
        one
        for one in by_disagreement(evaluation, metric)
        if evaluation.reference(one.place.reference_id).is_file()
    ]
    pages = [rows[start : start + ROWS] for start in range(0, min(len(rows), most * ROWS), ROWS)]
    columns = ["reference", *(model.name for model in evaluation.models)]
    return [
        contact_sheet(
            [_row(evaluation, metric, one) for one in page],
            columns=columns,
            title=f"Widest apart on {metric.label}, failures first"
            + (f" ({number} of {len(pages)})" if len(pages) > 1 else ""),
            cell_px=CELL_PX,
        )
        for number, page in enumerate(pages, start=1)
    ]


def _row(evaluation: Evaluation, metric: Metric, one: Disagreement) -> SheetRow:
    return SheetRow(
        label=f"{one.question.prompt} (number {one.place.k}{', one fails' if one.is_failure else ''})",
        reference=opened(evaluation.reference(one.place.reference_id)),
        results=pictures_of(evaluation, one),
        captions=captions_of(metric, one.values),
    )


def pictures_of(evaluation: Evaluation, one: Disagreement) -> Sequence[Image.Image]:
    """Every model's picture; grey for one that is not there."""
    files = [evaluation.picture(model.name, one.place) for model in evaluation.models]
    return [opened(file) if file.is_file() else Image.new("RGB", (CELL_PX, CELL_PX), GREY) for file in files]


def captions_of(metric: Metric, values: Mapping[str, float]) -> list[str]:
    """The value under each picture."""
    return [f"{metric.label} {short_number(value)}" for value in values.values()]


def opened(path: Path) -> Image.Image:
    """A picture in RGB. Raises ValueError naming a file that is none."""
    try:
        with Image.open(path) as found:
            return found.convert("RGB")
    except OSError as error:
        raise ValueError(
            f"{path}: is no picture that can be read ({error}); delete it and evaluate again"
        ) from error
