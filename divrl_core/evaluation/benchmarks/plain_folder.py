"""The folder that training takes, as a benchmark: pictures with their prompts, and other pictures of their subjects.

Pictures, prompts and masks are those of `training.folder_data`. Further pictures of a subject lie in a folder of their
own, which training does not look into: `views/fox.png`, or any names in `views/fox/`, for the reference `fox`.
"""

from __future__ import annotations

from pathlib import Path

from ...training.folder_data import read_folder
from ...training.folder_files import FolderFiles, is_picture, nearest
from ...training.picture_references import PictureFile
from .base import Benchmark
from .picture_benchmark import Entry, Layout, Reading, picture_benchmark, picture_file

KIND = "folder"
VIEWS = "views"


def open_plain_folder(folder: Path, reading: Reading) -> Benchmark:
    """A folder of pictures with prompts (`fox.txt`, or rows of `metadata.jsonl`), masks and views.

    Raises FileNotFoundError without the folder, DataProblems with everything that is wrong in it.
    """
    sources, problems = read_folder(folder)
    finder = _Views(folder)
    views = finder.by_reference({source.reference_id for source in sources})
    layout = Layout(
        name=folder.resolve().name,
        kind=KIND,
        where=str(folder),
        entries=[Entry(source=source, views=tuple(views.get(source.reference_id, ()))) for source in sources],
        problems=[*finder.explained(problems), *finder.problems],
    )
    return picture_benchmark(layout, reading)


class _Views(FolderFiles):
    """Finds the further pictures of each subject."""

    def by_reference(self, reference_ids: set[str]) -> dict[str, list[PictureFile]]:
        """Every picture in `views/` under the id whose name or folder it has; one of no reference is a problem."""
        folder = self.folder / VIEWS
        views: dict[str, list[PictureFile]] = {}
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if not is_picture(path) or path.name.startswith("."):
                continue
            below = path.relative_to(folder)
            names = (below.with_suffix("").as_posix(), below.parent.as_posix())
            owner = next((name for name in names if name in reference_ids), None)
            if owner is None:
                near = nearest(names[0] if names[1] == "." else names[1], reference_ids)
                self.problems.append(f"{path}: this view belongs to no reference{near}")
            elif self.is_inside(path, str(path)):
                views.setdefault(owner, []).append(picture_file(path))
        return views

    def explained(self, problems: list[str]) -> list[str]:
        """The folder's problems, where a view lies among the references with what to do about it."""
        among = [path for path in self.folder.iterdir() if is_picture(path) and ".view" in path.stem]
        for path in sorted(among):
            line = f"{path}: no caption: "
            home = f"{VIEWS}/{path.stem.partition('.view')[0]}/"
            told = f"{path}: is no reference without a caption; if it is a further view, put it into {home}"
            problems = [told if problem.startswith(line) else problem for problem in problems]
        return problems
