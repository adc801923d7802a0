"""What readers of a folder of pictures share: names and links that stay inside it, captions beside pictures."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

from .pictures import PICTURE_SUFFIXES
from .prompt_lines import prompts_of_text

METADATA_NAME = "metadata.jsonl"
OTHER_PICTURES = (".gif", ".heic", ".heif", ".avif", ".jfif", ".psd", ".tga", ".jp2")


class FolderFiles:
    """One folder, and the problems found in it, a line each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder.resolve()
        self.problems: list[str] = []

    def captions_beside(self, picture: Path, *, where: str) -> tuple[str, ...]:
        path = picture.with_suffix(".txt")
        if not path.exists():
            self.problems.append(
                f"{where}: no caption: needs a file {path.name} beside it, one prompt a line"
            )
            return ()
        if not self.is_inside(path, str(path)):
            return ()
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.problems.append(f"{path}: cannot be read as UTF-8 text ({error})")
            return ()
        prompts = prompts_of_text(text)
        if not prompts.lines:
            self.problems.append(f"{path}: the caption is empty")
        self.problems += [f"{path}:{number}: this caption is empty" for number in prompts.blank_line_numbers]
        return prompts.lines

    def named(self, name: str, where: str) -> Path | None:
        """The file that a manifest names, or None when a problem was noted."""
        as_windows = PureWindowsPath(name)  # splits at / and \ alike, and knows drives
        if as_windows.drive or as_windows.root or ".." in as_windows.parts:
            self.problems.append(f"{where}: {name!r} points outside the folder {self.folder}")
            return None
        path = self.folder / name
        if not self.is_inside(path, f"{where}: {name!r}"):
            return None
        if not path.is_file():
            self.problems.append(f"{where}: there is no file {name!r} in {self.folder}")
            return None
        return path

    def is_inside(self, path: Path, where: str) -> bool:
        """Whether the file's true place is inside the folder; if not, a problem is noted."""
        try:
            inside = path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError, ValueError) as error:
            self.problems.append(f"{where}: not a usable path ({error})")
            return False
        if not inside:
            self.problems.append(
                f"{where}: points outside the folder {self.folder} through a link; copy the file into it"
            )
        return inside


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its ending."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir()


MOST_NAMES = 2000  # beyond so many names, looking for a near one takes longer than it helps


def nearest(stem: str, stems: Collection[str]) -> str:
    """The end of a sentence that names the nearest of several stems, if any is near and there are not too many."""
    if len(stems) > MOST_NAMES:
        return ""
    near = difflib.get_close_matches(stem, list(stems), n=1)
    return f"; the nearest is {near[0]!r}" if near else ""
