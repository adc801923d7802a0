"""DreamBench++'s own folder as a benchmark (arXiv:2406.16855; repository yuangpeng/dreambench_plus).

data/images/live_subject/animal/00.jpg      also live_subject/human, object, style: 150 pictures in all
data/captions/live_subject/animal/00.txt    the subject's name ("kitten"), then nine prompts, one a line

What its code says (dreambench_plus_dataset.py, benchmarking.py, eval_concept_preservation.py):

- A collection's id is CATEGORY_NN_SUBJECT: the picture's folder, with `live_subject_` before animal and human; the
  number; the subject in lower case with underscores: `live_subject_animal_00_kitten`. Folders of samples and files of
  ratings bear it, so it is the reference's id here. The categories are animal, human, object and style.
- Prompts 0 to 3 ask for photographs, 4 to 6 for another style of the same subject, 7 and 8 for imaginative scenes.
- In the category style the picture *is* a style, and the subject stands in the prompt alone. It is this category that
  DivRL leaves out of VSM and MTG-nSSM (arXiv:2606.23950, appendix B), so its questions are `is_style`. Prompts 4 to 6
  of a subject are not: they show it still, and the paper counts them.

The benchmark brings no masks. They may be added as `00.mask.png` beside `00.jpg`, as `masks/00.png` there, or in a
folder masks/ beside images/ with the same folders in it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from ...training.folder_data import MASKS_NAME
from ...training.folder_files import FolderFiles, is_picture, nearest
from ...training.picture_references import PictureSource
from ...training.pictures import PICTURE_SUFFIXES
from .base import Benchmark
from .picture_benchmark import STYLE, Entry, Layout, Reading, picture_benchmark, picture_file

logger = logging.getLogger("divrl")

KIND = "dreambench"
IMAGES, CAPTIONS = "images", "captions"
PROMPTS = 9
_LIVE = ("animal", "human")


def open_dreambench(folder: Path, reading: Reading) -> Benchmark:
    """DreamBench++ in the folder that holds images/ and captions/, or whose `data` does.

    Raises FileNotFoundError where neither does, DataProblems with everything that is wrong in it.
    """
    root = dreambench_root(folder)
    if root is None:
        raise FileNotFoundError(
            f"{folder} is no DreamBench++: needs {IMAGES}/ and {CAPTIONS}/ in it or in its data/"
        )
    reader = _DreamBenchReader(root)
    entries = sorted(reader.entries(), key=lambda entry: entry.reference_id)
    _tell_other_counts(entries)
    layout = Layout(
        name="DreamBench++", kind=KIND, where=str(folder), entries=entries, problems=reader.problems
    )
    return picture_benchmark(layout, reading)


def dreambench_root(folder: Path) -> Path | None:
    """The folder that holds images/ and captions/: this one or its `data`; None where neither does."""
    for root in (folder, folder / "data"):
        if (root / IMAGES).is_dir() and (root / CAPTIONS).is_dir():
            return root
    return None


def collection_id(category: str, number: str, subject: str) -> str:
    """The name of a collection as DreamBench++ makes it, such as live_subject_animal_00_kitten."""
    prefix = "live_subject_" if category in _LIVE else ""
    return f"{prefix}{category}_{number}_{subject.lower().replace(' ', '_')}"


class _DreamBenchReader(FolderFiles):
    """Pairs pictures with captions and gathers problems."""

    def entries(self) -> list[Entry]:
        """A reference for each picture with a caption; what lacks the other is a problem."""
        pictures = self._pictures()
        captions = self._captions()
        if not pictures:
            suffixes = ", ".join(PICTURE_SUFFIXES)
            self.problems.append(f"{self.folder / IMAGES}: no pictures in it ({suffixes})")
        for name in sorted(captions.keys() - pictures.keys()):
            near = nearest(name, pictures)
            self.problems.append(f"{captions[name]}: this caption belongs to no picture{near}")
        found = [self._entry(name, path, captions.get(name)) for name, path in pictures.items()]
        return [entry for entry in found if entry is not None]

    def _pictures(self) -> dict[str, Path]:
        """Every picture by its place in images/ without its ending, as in live_subject/animal/00."""
        pictures: dict[str, Path] = {}
        for path in sorted((self.folder / IMAGES).rglob("*")):
            below = path.relative_to(self.folder / IMAGES).with_suffix("")
            is_mask = path.stem.endswith(".mask") or MASKS_NAME in below.parts[:-1]
            if not is_picture(path) or is_mask or path.name.startswith("."):
                continue
            if below.as_posix() in pictures:
                self.problems.append(f"{path}: {pictures[below.as_posix()].name} is there too; one is needed")
            elif len(below.parts) < 2:
                self.problems.append(
                    f"{path}: lies in no category; needs a folder such as {IMAGES}/object/{path.name}"
                )
            elif self.is_inside(path, str(path)):
                pictures[below.as_posix()] = path
        return pictures

    def _captions(self) -> dict[str, Path]:
        folder = self.folder / CAPTIONS
        return {
            path.relative_to(folder).with_suffix("").as_posix(): path
            for path in sorted(folder.rglob("*.txt"))
            if not path.name.startswith(".")
        }

    def _entry(self, name: str, picture: Path, caption: Path | None) -> Entry | None:
        if caption is None:
            needed = self.folder / CAPTIONS / f"{name}.txt"
            self.problems.append(
                f"{picture}: no caption: needs {needed}, the subject's name and then the prompts, one a line"
            )
            return None
        lines = self.captions_beside(caption, where=str(caption))
        if len(lines) < 2:
            if lines:
                self.problems.append(f"{caption}: no prompts after the subject's name {lines[0]!r}")
            return None
        mask = self._mask(name, picture)
        category = picture.parent.name
        reference_id = collection_id(category, picture.stem, lines[0])
        mask_file = None if mask is None else picture_file(mask)
        return Entry(
            source=PictureSource(reference_id, lines[1:], picture_file(picture), mask_file),
            subject=lines[0],
            collection=STYLE if STYLE in name.split("/")[:-1] else category,
        )

    def _mask(self, name: str, picture: Path) -> Path | None:
        """The picture's mask file, if it has one; two are a problem."""
        stems = (
            picture.with_name(f"{picture.stem}.mask"),
            picture.parent / MASKS_NAME / picture.stem,
            self.folder / MASKS_NAME / name,
        )
        candidates = (stem.with_name(stem.name + suffix) for stem in stems for suffix in PICTURE_SUFFIXES)
        masks = [path for path in candidates if path.is_file()]
        if len(masks) > 1:
            names = " and ".join(path.relative_to(self.folder).as_posix() for path in masks)
            self.problems.append(f"{picture}: one mask is needed, got {names}")
        return masks[0] if masks and self.is_inside(masks[0], str(masks[0])) else None


def _tell_other_counts(entries: list[Entry]) -> None:
    """Warn of references with other than nine prompts, which DreamBench++'s own scripts refuse."""
    others = [entry for entry in entries if len(entry.source.captions) != PROMPTS]
    if others:
        logger.warning(
            "%d of %d references have other than %d prompts, such as %s with %d: these are asked; DreamBench++'s own "
            "scripts need %d",
            len(others),
            len(entries),
            PROMPTS,
            others[0].reference_id,
            len(others[0].source.captions),
            PROMPTS,
        )
