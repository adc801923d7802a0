"""From the data settings to the references to train on and those held out.

References come from the pocket world (`..pocket.references`), from a folder of pictures (`folder_data.py`)
or from a Hugging Face dataset (`hub_data.py`). Pictures are checked on opening: every file is decoded once,
and all problems come in one `DataProblems`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..config import DataConfig
from ..models.model_names import POCKET
from .folder_data import read_folder
from .hub_data import is_dataset, read_dataset
from .pair_order import first_by_hash, held_out_ids, pick_pairs
from .picture_references import BY_MODEL, WHOLE_PICTURE, PictureReferences, check_sources
from .references import (
    DataProblems,
    PromptPair,
    Reference,
    ReferenceSet,
    first_prompts,
    prompt_pairs,
)

if TYPE_CHECKING:
    from .model_masks import ModelMasks

__all__ = [
    "DataProblems",
    "PromptPair",
    "Reference",
    "ReferenceSet",
    "RunData",
    "open_data",
    "open_references",
    "pick_pairs",
    "prompt_pairs",
]

logger = logging.getLogger("divrl")

POCKET_TRAIN_REFERENCES = 512
HELD_OUT_SEED = 0  # the same figures in every run, so that runs of different seeds compare


@dataclass(frozen=True)
class RunData:
    """The references of a run; no reference is in both sets."""

    train: ReferenceSet
    held_out: ReferenceSet


def open_data(config: DataConfig, *, seed: int = 0, size_px: int | None = None) -> RunData:
    """Open and check both sets.

    `seed` chooses the figures trained on in the pocket world; what is held out does not depend on it.
    With `size_px`, the training size, an object that vanishes at that size is a problem. Raises
    DataProblems (a ValueError) with every problem of both sources.
    """
    pictures = _open_pictures(config, size_px)
    train, held_out = pictures.get(config.source), pictures.get(config.held_out or "")
    if train is not None and config.held_out is None:
        train, held_out = _split(train, config)
    elif held_out is not None:
        if train is not None:
            _refuse_shared(train, held_out, config)
        held_out = held_out.select(first_by_hash(held_out.reference_ids, config.held_out_references))
    data = RunData(
        train=train or _pocket("train", POCKET_TRAIN_REFERENCES, seed),
        held_out=held_out or _pocket("held_out", config.held_out_references, HELD_OUT_SEED),
    )
    if config.prompts_per_reference is None:
        return data
    return RunData(
        train=first_prompts(data.train, config.prompts_per_reference),
        held_out=first_prompts(data.held_out, config.prompts_per_reference),
    )


def open_references(config: DataConfig, *, held_out: bool, seed: int = 0) -> ReferenceSet:
    """One of the two sets of `open_data`; where both are wanted that is the better call, it decodes once."""
    data = open_data(config, seed=seed)
    return data.held_out if held_out else data.train


def _open_pictures(config: DataConfig, size_px: int | None) -> dict[str, PictureReferences]:
    """The checked references of each source that is not the pocket world, by its name in the settings."""
    problems: list[str] = []
    pictures: dict[str, PictureReferences] = {}
    model_masks = _model_masks(config)
    otherwise = WHOLE_PICTURE if model_masks is None else BY_MODEL
    for setting, name in (("data.source", config.source), ("data.held_out", config.held_out)):
        if name is None or name == POCKET or name in pictures:
            continue
        try:
            read = read_dataset(name, config) if is_dataset(name) else read_folder(Path(name).expanduser())
        except (FileNotFoundError, ValueError, ImportError) as error:
            problems.append(f"{setting}: {error}")
            continue
        sources, source_problems = read
        logger.info("checking the %d pictures of %s", len(sources), name)
        checked, picture_problems = check_sources(sources, size_px=size_px, otherwise=otherwise)
        problems += source_problems + picture_problems
        pictures[name] = PictureReferences(checked, model_masks)
    if model_masks is not None and config.source == POCKET and config.held_out in (None, POCKET):
        problems.append("data.segmenter.model: says nothing about the pocket world, whose masks are exact")
    if problems:
        raise DataProblems(problems)
    return pictures


def _model_masks(config: DataConfig) -> ModelMasks | None:
    if config.segmenter.model is None:
        return None
    from .model_masks import ModelMasks

    return ModelMasks(config.segmenter)


def _split(references: PictureReferences, config: DataConfig) -> tuple[PictureReferences, PictureReferences]:
    try:
        apart = held_out_ids(references.digests, config.held_out_references)
    except ValueError as error:
        raise DataProblems([f"{config.source}: {error}"]) from error
    if len(apart) < config.held_out_references:
        logger.warning(
            "%s has %d references: %d of them are held out, not %d, so that most are left to train on",
            config.source,
            len(references.reference_ids),
            len(apart),
            config.held_out_references,
        )
    kept = [reference_id for reference_id in references.reference_ids if reference_id not in apart]
    return references.select(kept), references.select(apart)


def _refuse_shared(train: PictureReferences, held_out: PictureReferences, config: DataConfig) -> None:
    """A reference that is in both sets, by its id or by its pixels, is a problem."""
    trained_ids = {digest: reference_id for reference_id, digest in train.digests.items()}
    problems = []
    for reference_id, digest in held_out.digests.items():
        held_out_name = f"{config.held_out}: held-out reference {reference_id!r}"
        if digest in trained_ids:
            problems.append(
                f"{held_out_name} is the same picture as {trained_ids[digest]!r} of {config.source}"
            )
        elif reference_id in train.digests:
            problems.append(f"{held_out_name} has the id of another picture of {config.source}; rename one")
    if problems:
        raise DataProblems(problems)


def _pocket(split: Literal["train", "held_out"], count: int, seed: int) -> ReferenceSet:
    from ..pocket.references import PocketReferences  # renders, and imports this module

    return PocketReferences(split=split, count=count, seed=seed)
