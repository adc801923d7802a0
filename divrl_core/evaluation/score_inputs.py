"""Which picture shows which reference, and where the reference's mask is; everything that is wrong, at once.

A picture belongs to the reference with its name: `fox.png`, `fox_3.png` and `fox/3.png` all show `fox`; of several
that fit, the longest name. With a single reference file every picture shows it. Contact sheets (`sheet.jpg`) and masks
(`fox.mask.png`, `masks/`) are not pictures.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import SegmenterConfig
from ..training.picture_references import (
    BY_MODEL,
    WHOLE_PICTURE,
    PictureFile,
    PictureReferences,
    PictureSource,
    check_sources,
)
from ..training.pictures import PICTURE_SUFFIXES, decode_picture
from ..training.references import DataProblems

if TYPE_CHECKING:
    from ..training.model_masks import ModelMasks

SHEET = "sheet.jpg"


@dataclass(frozen=True, kw_only=True)
class PictureToScore:
    """A picture that can be read. name: its path inside its folder. shape: (height, width) in px."""

    path: Path
    name: str
    reference_id: str
    shape: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class ScoreInputs:
    """Pictures in the order of their names, and the references that they show, all readable."""

    pictures: tuple[PictureToScore, ...]
    references: PictureReferences


def read_inputs(
    images: Path, references: Path, mask: Path | None = None, segmenter: SegmenterConfig | None = None
) -> ScoreInputs:
    """Find and check pictures, references and masks.

    Args:
        images: a folder of pictures, searched to its depth, or one picture.
        references: one picture for all, or a folder of pictures.
        mask: for one reference, its mask; for a folder of them, a folder with a mask of the same name for each. None:
            `fox.mask.png` or `masks/fox.png` beside the reference, else its alpha channel, else what `segmenter` makes,
            else the whole picture.
        segmenter: the model for references that bring no mask; it is not loaded here.

    Raises:
        FileNotFoundError: a path that is not there.
        DataProblems: everything else that is wrong, a line each: unreadable pictures, pictures without a
            reference, masks that are missing, unreadable, empty or of another size.
    """
    for path in (images, references, *([mask] if mask else [])):
        if not path.exists():
            raise FileNotFoundError(f"there is no file or folder {path}")
    problems: list[str] = []
    found = _pictures_in(images) if images.is_dir() else [images]
    if not found:
        problems.append(f"{images}: no pictures in this folder ({', '.join(PICTURE_SUFFIXES)})")
    known = _references_in(references)
    if not known:
        problems.append(f"{references}: no pictures in this folder ({', '.join(PICTURE_SUFFIXES)})")
    shows = dict(_matched(found, known, images, references, problems)) if known else {}
    used = sorted(set(shows.values()))
    sources = []
    for reference_id in used:
        mask_path = _mask_of(known[reference_id], mask, len(used), problems)
        mask_file = None if mask_path is None else _file(mask_path)
        sources.append(PictureSource(reference_id, (), _file(known[reference_id]), mask_file))
    model_masks = segmenter_masks(segmenter, problems)
    otherwise = WHOLE_PICTURE if model_masks is None else BY_MODEL
    checked, source_problems = check_sources(sources, otherwise=otherwise)
    shapes = _shapes(found, problems)
    problems += source_problems
    if problems:
        raise DataProblems(problems)
    folder = images if images.is_dir() else images.parent
    return ScoreInputs(
        pictures=tuple(
            PictureToScore(
                path=path,
                name=path.relative_to(folder).as_posix(),
                reference_id=reference_id,
                shape=shapes[path],
            )
            for path, reference_id in shows.items()
        ),
        references=PictureReferences(checked, model_masks),
    )


def segmenter_masks(segmenter: SegmenterConfig | None, problems: list[str]) -> ModelMasks | None:
    """The masks of the segmenter that is asked for, nothing loaded; what its files lack is added to `problems`."""
    if segmenter is None or segmenter.model is None:
        return None
    from ..models.segmentation.files import segmenter_problems
    from ..training.model_masks import ModelMasks

    problems += segmenter_problems(segmenter)
    return ModelMasks(segmenter)


def _matched(
    found: Sequence[Path], known: dict[str, Path], images: Path, references: Path, problems: list[str]
) -> Iterable[tuple[Path, str]]:
    for path in found:
        if references.is_file():
            yield path, references.stem
            continue
        inside = path.relative_to(images).parts[:-1] if images.is_dir() else ()
        fitting = [name for name in known if _shows(path.stem, name) or name in inside]
        if fitting:
            yield path, max(fitting, key=len)
        else:
            near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.4)
            hint = f"; the nearest name there is {near[0]}" if near else ""
            problems.append(f"{path}: no reference in {references} has its name{hint}")


def _shows(stem: str, name: str) -> bool:
    """fox, fox_3 and fox-3 show fox; foxes does not."""
    return stem == name or (stem.startswith(name) and not stem[len(name)].isalnum())


def _pictures_in(folder: Path) -> list[Path]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and _is_picture(path))
    return [
        path for path in files if path.name != SHEET and "masks" not in path.relative_to(folder).parts[:-1]
    ]


def _references_in(references: Path) -> dict[str, Path]:
    if references.is_file():
        return {references.stem: references}
    return {path.stem: path for path in sorted(references.iterdir()) if path.is_file() and _is_picture(path)}


def _is_picture(path: Path) -> bool:
    is_mask = path.stem.endswith(".mask")
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.name.startswith(".") and not is_mask


def _mask_of(reference: Path, mask: Path | None, reference_count: int, problems: list[str]) -> Path | None:
    """The mask's file; a mask that was asked for and is not there is a problem."""
    if mask is None:
        beside = reference.parent
        return _named(beside, f"{reference.stem}.mask") or _named(beside / "masks", reference.stem)
    if mask.is_dir():
        file = _named(mask, reference.stem) or _named(mask, f"{reference.stem}.mask")
        if file is None:
            problems.append(f"{reference}: no mask of its name in {mask}")
        return file
    if reference_count > 1:
        problems.append(
            f"{reference}: one mask, {mask}, for {reference_count} references; give a folder of masks"
        )
    return mask


def _named(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for suffix in PICTURE_SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _shapes(paths: Sequence[Path], problems: list[str]) -> dict[Path, tuple[int, int]]:
    """Height and width of each picture that can be read; the others are problems."""

    def look(path: Path) -> tuple[int, int] | str:
        try:
            rgb = decode_picture(path).rgb
        except ValueError as error:
            return f"{path}: {error}"
        return rgb.height, rgb.width

    with ThreadPoolExecutor(max_workers=8) as pool:
        looks = dict(zip(paths, pool.map(look, paths), strict=True))
    problems += [result for result in looks.values() if isinstance(result, str)]
    return {path: result for path, result in looks.items() if not isinstance(result, str)}


def _file(path: Path) -> PictureFile:
    return PictureFile(str(path), lambda: path)
