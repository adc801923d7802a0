"""References in a Hugging Face dataset: of the hub, a parquet file, a folder of parquet or `save_to_disk`.

Columns (named in the settings): pictures, masks (an empty cell: no mask), captions as a list of texts or as
one text with a prompt a line. A column `id`, where there is one, names the references; otherwise they are
row-000000 and so on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from ..config import DataConfig
from ..models.model_names import is_hub_id
from .metadata_rows import captions_of
from .picture_references import PictureFile, PictureSource

if TYPE_CHECKING:
    from datasets import Dataset

ID_COLUMN = "id"


def is_dataset(source: str) -> bool:
    """Whether this names a dataset, not a folder of pictures: local dataset files, or owner/name."""
    path = Path(source).expanduser()
    if path.is_dir():
        saved = (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file()
        return saved or any(path.rglob("*.parquet"))
    if path.is_file():
        return path.suffix == ".parquet"
    return is_hub_id(source)


def read_dataset(source: str, config: DataConfig) -> tuple[list[PictureSource], list[str]]:
    """The references of a dataset's split, no picture decoded yet, and the problems found, a line each.

    Raises ImportError without the package datasets, ValueError when the dataset or its split cannot be
    opened.
    """
    dataset, roots = open_dataset(source, config.split)
    pictures_named = {"image_column": config.image_column, "mask_column": config.mask_column}
    problems = column_problems(dataset, pictures_named, {"caption_column": config.caption_column})
    if problems:
        return [], [f"{source}: {problem}" for problem in problems]
    pictures = PictureColumn(dataset, config.image_column, source, roots)
    masks = None if config.mask_column is None else PictureColumn(dataset, config.mask_column, source, roots)
    ids = ids_of(dataset)
    captions = dataset.select_columns([config.caption_column])
    sources: dict[str, PictureSource] = {}
    for place, row in enumerate(captions):
        prompts, caption_problems = captions_of(row[config.caption_column])
        if row[config.caption_column] is None:
            caption_problems = ["no caption"]
        problems += [
            f"{source} row {place}, column {config.caption_column!r}: {text}" for text in caption_problems
        ]
        if ids[place] in sources:
            problems.append(f"{source} row {place}: the id {ids[place]!r} is already taken by an earlier row")
            continue
        mask = None if masks is None else masks.file(place)
        sources[ids[place]] = PictureSource(ids[place], prompts, pictures.file(place), mask)
    if not sources:
        problems.append(f"{source}: the split {config.split!r} has no rows")
    return list(sources.values()), problems


class PictureColumn:
    """The undecoded pictures of one column; `roots` are the folders in which they may lie."""

    def __init__(self, dataset: Dataset, name: str, source: str, roots: tuple[Path, ...]) -> None:
        import datasets

        self._cells = dataset.select_columns([name]).cast_column(name, datasets.Image(decode=False))
        self._name = name
        self._source = source
        self._roots = roots
        self._lock = Lock()  # pictures are checked in threads

    def file(self, place: int) -> PictureFile:
        """The picture of a row, not read yet."""
        return PictureFile(f"{self._source} row {place}, column {self._name!r}", lambda: self._read(place))

    def _read(self, place: int) -> Path | bytes | None:
        with self._lock:
            cell: dict[str, Any] | None = self._cells[place][self._name]
        if cell is None:
            return None
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        path = Path(cell["path"] or "")
        if not any(path.resolve().is_relative_to(root) for root in self._roots):
            raise ValueError(f"the row points outside the dataset: {cell['path']!r}")
        return path


def open_dataset(source: str, split: str) -> tuple[Dataset, tuple[Path, ...]]:
    """The split, and the folders in which its pictures may lie."""
    try:
        import datasets
        import datasets.exceptions
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        raise ImportError(
            f"data.source {source!r} is a dataset, which needs the package datasets: "
            'pip install "divrl[datasets]" (or pip install datasets)'
        ) from None
    path = Path(source).expanduser()
    roots = tuple(Path(root).resolve() for root in (path, datasets.config.HF_DATASETS_CACHE, HF_HUB_CACHE))
    try:
        if path.is_file():
            dataset = datasets.load_dataset("parquet", data_files={split: str(path)}, split=split)
        elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            dataset = datasets.load_from_disk(str(path))
        else:
            dataset = datasets.load_dataset(str(path) if path.is_dir() else source, split=split)
    except (OSError, ValueError, IndexError, datasets.exceptions.DatasetsError) as error:
        # IndexError: saved without a row
        nothing_here = "" if path.exists() else f"there is no folder {source!r} here, and "
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{nothing_here}the dataset {source!r}, split {split!r}, cannot be opened: {reason}"
        ) from error
    if isinstance(dataset, datasets.DatasetDict):
        if split not in dataset:
            raise ValueError(
                f"{source}: there is no split {split!r}; it has {', '.join(dataset)}; set data.split"
            )
        dataset = dataset[split]
    return dataset, roots


def column_problems(
    dataset: Dataset, columns: Mapping[str, str | None], captions: Mapping[str, str]
) -> list[str]:
    """What is wrong with the columns that settings name, by the setting: missing, or no pictures; a line each."""
    import datasets

    problems = []
    for setting, name in {**columns, **captions}.items():
        if name is not None and name not in dataset.column_names:
            near = difflib.get_close_matches(name, dataset.column_names, n=1, cutoff=0.5)
            problems.append(
                f"there is no column {name!r}; it has {', '.join(dataset.column_names)}; set data.{setting}"
                + (f" (to {near[0]}?)" if near else "")
                + (", or to null for no masks" if setting == "mask_column" else "")
            )
    for setting, name in columns.items():
        feature = dataset.features.get(name) if name else None
        is_picture = isinstance(feature, datasets.Image) or getattr(feature, "dtype", "") in (
            "binary",
            "large_binary",
        )
        if feature is not None and not is_picture:
            problems.append(f"column {name!r} (data.{setting}) must hold pictures, got {feature}")
    return problems


def ids_of(dataset: Dataset) -> list[str]:
    """The names of the rows: the column `id`, where there is one."""
    if ID_COLUMN in dataset.column_names:
        return [str(value) for value in dataset[ID_COLUMN]]
    return [f"row-{place:06d}" for place in range(len(dataset))]
