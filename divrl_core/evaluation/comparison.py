"""Pictures of several models for the same references and seeds: kept as PNG files with a list, shown as a
sheet or a page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ..training.files import write_atomic_bytes, write_atomic_json
from .paired import TRUTHS
from .runs import read_json
from .sheets import ComparisonRow, Picture, comparison_sheet, score_caption, to_picture

LIST_NAME = "comparisons.json"


@dataclass(frozen=True, kw_only=True)
class ComparedPicture:
    """One generated picture with its scores, and what is true of it (None = undefined or not known)."""

    path: Path
    nssm: float | None
    vsm: float | None
    clean: float | None = None
    pose_change_deg: float | None = None
    identity_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One reference with its prompt, and each model's pictures at the same seeds."""

    reference_id: str
    prompt: str
    reference: Path
    results: Mapping[str, tuple[ComparedPicture, ...]]


def read_comparisons(folder: Path) -> list[Comparison]:
    """The comparisons kept in a folder; [] when there are none yet. Raises ValueError when the list is
    damaged.
    """
    if not (folder / LIST_NAME).is_file():
        return []
    content = read_json(folder / LIST_NAME)
    try:
        return [
            Comparison(
                reference_id=row["reference_id"],
                prompt=row["prompt"],
                reference=folder / row["reference"],
                results={model: compared(folder, items) for model, items in row["results"].items()},
            )
            for row in content["rows"]
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / LIST_NAME} lacks {error}; delete the folder and run the demo again"
        ) from error


def compared(folder: Path, items: Sequence[Mapping[str, Any]]) -> tuple[ComparedPicture, ...]:
    """Pictures in `folder` from their rows in a list: file, nssm, vsm, and perhaps what is true of them."""
    return tuple(
        ComparedPicture(
            path=folder / item["file"],
            nssm=item["nssm"],
            vsm=item["vsm"],
            **{name: item.get(name) for name in TRUTHS},
        )
        for item in items
    )


def write_comparisons(folder: Path, comparisons: Sequence[Comparison]) -> Path:
    """Writes the list beside the pictures, which must lie in the folder already."""
    rows = [
        {
            "reference_id": comparison.reference_id,
            "prompt": comparison.prompt,
            "reference": comparison.reference.name,
            "results": {
                model: [
                    {"file": item.path.name}
                    | {name: getattr(item, name) for name in ("nssm", "vsm", *TRUTHS)}
                    for item in items
                ]
                for model, items in comparison.results.items()
            },
        }
        for comparison in comparisons
    ]
    return write_atomic_json(folder / LIST_NAME, {"rows": rows})


def write_picture(path: Path, picture: Picture) -> Path:
    """Writes one picture as PNG, atomically."""
    buffer = io.BytesIO()
    to_picture(picture).save(buffer, "PNG")
    return write_atomic_bytes(path, buffer.getvalue())


def write_sheet(path: Path, sheet: Image.Image) -> Path:
    """Writes a contact sheet as JPEG (or PNG by its name), atomically, with colours at full resolution."""
    buffer = io.BytesIO()
    if path.suffix.lower() == ".png":
        sheet.save(buffer, "PNG")
    else:
        sheet.save(buffer, "JPEG", quality=92, subsampling=0)
    return write_atomic_bytes(path, buffer.getvalue())


def sheet_of(comparisons: Sequence[Comparison], *, title: str) -> Image.Image:
    """The comparisons as one picture, the scores under each result."""
    rows = [
        ComparisonRow(
            label=comparison.prompt,
            reference=Image.open(comparison.reference),
            results={
                name: [Image.open(item.path) for item in items] for name, items in comparison.results.items()
            },
            captions={
                name: [score_caption(item.nssm, item.vsm) for item in items]
                for name, items in comparison.results.items()
            },
        )
        for comparison in comparisons
    ]
    count = len(next(iter(comparisons[0].results.values()))) if comparisons else 0
    return comparison_sheet(rows, seeds=[f"seed {index}" for index in range(count)], title=title)
