"""References in a folder of pictures, with everything that is wrong in it found at once.

Without a `metadata.jsonl` every picture in the folder is a reference: `fox.png` has its prompts in
`fox.txt`, one a line. With one, each row is a reference (`metadata_rows.py`). A mask is `fox.mask.png` or
`masks/fox.png`. No name and no link may lead out of the folder.
"""

from __future__ import annotations

import logging
from pathlib import Path

from .folder_files import METADATA_NAME, OTHER_PICTURES, FolderFiles, is_picture, nearest
from .metadata_rows import MetadataRow, read_rows
from .picture_references import PictureFile, PictureSource
from .pictures import PICTURE_SUFFIXES

logger = logging.getLogger("divrl")

MASKS_NAME = "masks"


def read_folder(folder: Path) -> tuple[list[PictureSource], list[str]]:
    """The references of a folder, nothing decoded yet, and the problems found, a line each.

    Raises FileNotFoundError if there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder of reference pictures at {folder}")
    reader = _FolderReader(folder)
    if (folder / METADATA_NAME).exists():
        reader.read_metadata()
    else:
        reader.read_files()
    if not reader.sources and not reader.problems:
        inside = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f"; name one of its folders: {', '.join(inside)}" if inside else ""
        reader.problems.append(f"{folder}: no pictures here ({', '.join(PICTURE_SUFFIXES)}){hint}")
    return list(reader.sources.values()), reader.problems


class _FolderReader(FolderFiles):
    """Walks one folder and gathers references and problems."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.sources: dict[str, PictureSource] = {}
        self._where: dict[str, str] = {}

    def read_files(self) -> None:
        """Every picture in the folder is a reference; every other file must belong to one."""
        files = sorted(path for path in self.folder.iterdir() if not path.name.startswith("."))
        pictures = [path for path in files if is_picture(path) and not path.stem.endswith(".mask")]
        self._find_strays(files, {path.stem for path in pictures})
        for path in pictures:
            captions = self.captions_beside(path, where=str(path))
            if self.is_inside(path, str(path)):
                self._add(str(path), path.stem, path, captions, self._mask_beside(path))

    def read_metadata(self) -> None:
        """Every row of the metadata is a reference; pictures it does not name are left out."""
        metadata = self.folder / METADATA_NAME
        if not self.is_inside(metadata, str(metadata)):
            return
        rows, problems = read_rows(metadata)
        self.problems += problems
        named: set[Path] = set()
        for row in rows:
            picture = self.named(row.picture, row.where)
            mask = None if row.mask is None else self.named(row.mask, f"{row.where}: mask")
            captions = row.captions
            if picture is not None:
                captions = captions or self._captions_of_row(row, picture)
                mask = mask or (self._mask_beside(picture) if row.mask is None else None)
                self._add(row.where, row.reference_id, picture, captions, mask)
                named |= {picture, mask} if mask else {picture}
        unnamed = [path for path in sorted(self.folder.iterdir()) if is_picture(path) and path not in named]
        if unnamed and rows:
            logger.warning(
                "%s does not name %d of the pictures in its folder, such as %s: they are not used",
                metadata,
                len(unnamed),
                unnamed[0].name,
            )

    def _add(
        self, where: str, reference_id: str, picture: Path, captions: tuple[str, ...], mask: Path | None
    ) -> None:
        if reference_id in self.sources:
            self.problems.append(
                f"{where}: the id {reference_id!r} is already taken by {self._where[reference_id]}"
            )
            return
        self._where[reference_id] = where
        self.sources[reference_id] = PictureSource(
            reference_id, captions, _file(picture), None if mask is None else _file(mask)
        )

    def _captions_of_row(self, row: MetadataRow, picture: Path) -> tuple[str, ...]:
        if not row.needs_captions:
            return ()
        if picture.with_suffix(".txt").exists():
            return self.captions_beside(picture, where=row.where)
        self.problems.append(
            f"{row.where}: no caption: needs captions or caption in the row (it has {', '.join(row.keys)}) "
            f"or a file {picture.with_suffix('.txt').name}"
        )
        return ()

    def _mask_beside(self, picture: Path) -> Path | None:
        below = picture.relative_to(self.folder).with_suffix("")
        stems = (picture.with_suffix(".mask"), self.folder / MASKS_NAME / below)
        masks = [
            path
            for stem in stems
            for suffix in PICTURE_SUFFIXES
            if (path := stem.with_name(stem.name + suffix)).is_file() and path != picture
        ]
        if len(masks) > 1:
            names = " and ".join(str(path.relative_to(self.folder)) for path in masks)
            self.problems.append(f"{picture}: one mask is needed, got {names}")
        return masks[0] if masks and self.is_inside(masks[0], str(masks[0])) else None

    def _find_strays(self, files: list[Path], stems: set[str]) -> None:
        """Note captions and masks without a picture, and pictures of formats that are not read."""
        masks_folder = self.folder / MASKS_NAME
        in_masks_folder = sorted(masks_folder.iterdir()) if masks_folder.is_dir() else []
        for path in files:
            if path.suffix.lower() in OTHER_PICTURES:
                self.problems.append(f"{path}: pictures must be {', '.join(PICTURE_SUFFIXES)}; convert it")
            elif path.suffix.lower() == ".txt" and path.stem not in stems:
                self.problems.append(f"{path}: this caption belongs to no picture{nearest(path.stem, stems)}")
            elif is_picture(path) and path.stem.endswith(".mask"):
                stem = path.stem.removesuffix(".mask")
                if stem not in stems:
                    self.problems.append(f"{path}: this mask belongs to no picture{nearest(stem, stems)}")
        for path in in_masks_folder:
            if is_picture(path) and path.stem not in stems:
                self.problems.append(f"{path}: this mask belongs to no picture{nearest(path.stem, stems)}")


def _file(path: Path) -> PictureFile:
    return PictureFile(where=str(path), read=lambda: path)
