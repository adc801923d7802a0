"""From cfm's data settings to the pairs to train on and those held out; all problems of both come at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from ..config_cfm import CfmDataConfig
from ..models.model_names import POCKET
from .data import HELD_OUT_SEED
from .hub_data import is_dataset
from .pair_folders import ReadPairs, read_pair_folder
from .pair_set import PairSet, PictureFacts, PicturePairs, digest_of, split_off
from .references import DataProblems

logger = logging.getLogger("divrl")


@dataclass(frozen=True)
class CfmData:
    """The pairs of a run; no subject is in both sets."""

    train: PairSet
    held_out: PairSet


def open_pairs(config: CfmDataConfig, *, seed: int = 0) -> CfmData:
    """Open and check both sets; every picture is decoded once.

    `seed` chooses the figures trained on in the pocket world. Raises DataProblems (a ValueError) with every problem.
    """
    problems = _idle_settings(config)
    opened: dict[str, PicturePairs] = {}
    for setting, name in (("data.source", config.source), ("data.held_out", config.held_out)):
        if name is not None and name != POCKET and name not in opened:
            pairs = _open(name, setting, config, problems)
            if pairs is not None:
                opened[name] = pairs
    if problems:
        raise DataProblems(problems)
    train, held_out = opened.get(config.source), opened.get(config.held_out or "")
    if train is not None and config.held_out is None:
        train, held_out = _split(train, config)
    elif train is not None and held_out is not None:
        _refuse_shared(train, held_out, config)
    return CfmData(
        train=train or _pocket("train", config, seed),
        held_out=_first(held_out, config.held_out_pairs) or _pocket("held_out", config, HELD_OUT_SEED),
    )


def data_digest(data: CfmData, *more: str) -> str:
    """A name for all that a run learns from: pairs, pixels, captions, and `more`; other data, another name."""
    digest = blake2b(digest_size=16)
    for side in (data.train, data.held_out):
        for pair in side.pairs:
            pixels = side.facts(pair.target_id).digest, side.facts(pair.reference_id).digest
            digest.update(repr((pair.pair_id, *pixels, pair.captions)).encode())
        digest.update(b"/")
    digest.update(repr(more).encode())
    return digest.hexdigest()


def _idle_settings(config: CfmDataConfig) -> list[str]:
    """Settings that would say nothing, a line each."""
    problems = []
    if config.held_out not in (None, POCKET) and config.held_out == config.source:
        problems.append(
            f"data.held_out: is data.source itself, {config.source}; leave it out to set some pairs apart"
        )
    if config.source == POCKET or is_dataset(config.source):
        kind = "the pocket world" if config.source == POCKET else f"the dataset {config.source}"
        problems += [
            f"data.{name}: says nothing about {kind}, which holds its own references; leave it out"
            for name in ("references", "grid")
            if getattr(config, name) is not None
        ]
    return problems


def _open(name: str, setting: str, config: CfmDataConfig, problems: list[str]) -> PicturePairs | None:
    is_source = setting == "data.source"
    try:
        if is_dataset(name):
            from .pair_dataset import read_pair_dataset

            read = read_pair_dataset(name, config)
        else:
            references = config.references if is_source else None
            read = read_pair_folder(
                Path(name).expanduser(),
                references=None if references is None else Path(references).expanduser(),
                grid=config.grid_shape,
                gap_px=config.grid_gap_px,
            )
    except (FileNotFoundError, ValueError, ImportError) as error:
        problems.append(f"{setting}: {error}")
        return None
    logger.info("checking the %d pictures of %s", len(read.pictures), name)
    facts = _check(read)
    problems += read.problems
    return None if read.problems else PicturePairs(read.pairs, read.pictures, facts)


def _check(read: ReadPairs) -> Mapping[str, PictureFacts]:
    """Decode every file once, in threads; problems go to `read.problems` in the pictures' order."""
    files: dict[str, list[str]] = {}
    for name, picture in read.pictures.items():
        files.setdefault(picture.where, []).append(name)

    def check(names: list[str]) -> list[PictureFacts | str]:
        pictures = [read.pictures[name] for name in names]
        try:
            whole = pictures[0].decoded()
            panels = [picture.panel_of(whole) for picture in pictures]
        except ValueError as error:
            return [str(error)] * len(names)
        return [PictureFacts(digest_of(panel), panel.shape[1], panel.shape[2]) for panel in panels]

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        checked = zip(files.values(), pool.map(check, files.values()), strict=True)
        results = {name: one for names, found in checked for name, one in zip(names, found, strict=True)}
    facts = {name: result for name, result in results.items() if isinstance(result, PictureFacts)}
    # The panels of one broken grid have one problem between them.
    broken = [result for result in results.values() if isinstance(result, str)]
    read.problems += list(dict.fromkeys(broken))
    for pair in read.pairs:
        target, reference = facts.get(pair.target_id), facts.get(pair.reference_id)
        if target is not None and reference is not None and target.digest == reference.digest:
            read.problems.append(
                f"{read.pictures[pair.target_id].where}: target and reference of {pair.pair_id!r} are the same "
                "picture; such a pair teaches copying"
            )
    return facts


def _split(pairs: PicturePairs, config: CfmDataConfig) -> tuple[PicturePairs, PicturePairs]:
    try:
        apart = split_off(pairs.pairs, config.held_out_pairs, lambda name: pairs.facts(name).digest)
    except ValueError as error:
        raise DataProblems([f"{config.source}: {error}"]) from error
    if len(apart) < config.held_out_pairs:
        logger.warning(
            "%s: %d pairs are held out, not %d, so that most subjects are left to train on",
            config.source, len(apart), config.held_out_pairs,
        )  # fmt: skip
    kept = [pair.pair_id for pair in pairs.pairs if pair.pair_id not in apart]
    return pairs.select(kept), pairs.select(apart)


def _refuse_shared(train: PicturePairs, held_out: PicturePairs, config: CfmDataConfig) -> None:
    """A picture that is in both sets, by its pixels, is a problem."""
    trained = {
        train.facts(name).digest: name for pair in train.pairs for name in (pair.target_id, pair.reference_id)
    }
    shared = dict.fromkeys(
        name
        for pair in held_out.pairs
        for name in (pair.target_id, pair.reference_id)
        if held_out.facts(name).digest in trained
    )
    if shared:
        raise DataProblems(
            f"{config.held_out}: {name} is the same picture as "
            f"{trained[held_out.facts(name).digest]} of {config.source}"
            for name in shared
        )


def _first(pairs: PicturePairs | None, count: int) -> PicturePairs | None:
    return None if pairs is None else pairs.select(pair.pair_id for pair in pairs.pairs[:count])


def _pocket(split: str, config: CfmDataConfig, seed: int) -> PairSet:
    from ..pocket.training_pairs import PocketPairs  # renders

    if split == "train":
        return PocketPairs(split="train", subjects=config.pocket_subjects, seed=seed)
    return PocketPairs(split="held_out", subjects=max(1, config.held_out_pairs // 4), seed=seed)
