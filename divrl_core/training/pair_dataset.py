"""Pairs in a Hugging Face dataset: a column of targets, one of references, one of captions (named in the settings)."""

from __future__ import annotations

from ..config_cfm import CfmDataConfig
from .hub_data import PictureColumn, column_problems, ids_of, open_dataset
from .metadata_rows import captions_of
from .pair_folders import ReadPairs
from .pair_set import PairPicture, TrainingPair


def read_pair_dataset(source: str, config: CfmDataConfig) -> ReadPairs:
    """The pairs of a dataset's split, no picture decoded yet.

    Raises ImportError without the package datasets, ValueError when the dataset or its split cannot be opened.
    """
    dataset, roots = open_dataset(source, config.split)
    read = ReadPairs()
    pictures = {"target_column": config.target_column, "reference_column": config.reference_column}
    problems = column_problems(dataset, pictures, {"caption_column": config.caption_column})
    if problems:
        read.problems = [f"{source}: {problem}" for problem in problems]
        return read
    targets, references = (PictureColumn(dataset, name, source, roots) for name in pictures.values())
    ids = ids_of(dataset)
    for place, row in enumerate(dataset.select_columns([config.caption_column])):
        value, where = row[config.caption_column], f"{source} row {place}"
        captions, found = captions_of(value) if value is not None else ((), ["no caption"])
        read.problems += [f"{where}, column {config.caption_column!r}: {text}" for text in found]
        names = f"{ids[place]}/target", f"{ids[place]}/reference"
        for name, column in zip(names, (targets, references), strict=True):
            file = column.file(place)
            read.pictures[name] = PairPicture(file.where, file.read)
        if captions:
            read.add(TrainingPair(ids[place], *names, captions), where)
    if not len(dataset):
        read.problems.append(f"{source}: the split {config.split!r} has no rows")
    return read
