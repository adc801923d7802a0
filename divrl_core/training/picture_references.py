"""A reference set made of pictures, wherever they lie: checked once as a whole, then decoded when asked for.

A mask file is the mask; without one an alpha channel that is not opaque everywhere; without either what a
segmentation model makes of the picture (`model_masks.py`), or, where the settings name none, the whole picture.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .pictures import OBJECT_ABOVE, Picture, decode_mask, decode_picture, frame
from .references import PromptPair, Reference, prompt_pairs

if TYPE_CHECKING:
    from .model_masks import ModelMasks

CACHED_REFERENCES = 32
BY_MODEL, WHOLE_PICTURE = "model", "whole picture"
MASK_SOURCES = ("files", "alpha", BY_MODEL, WHOLE_PICTURE)


@dataclass(frozen=True)
class PictureFile:
    """A picture not yet read: `where` is for messages, `read` gives its path or bytes, or None."""

    where: str
    read: Callable[[], Path | bytes | None]


@dataclass(frozen=True)
class PictureSource:
    """One reference not yet read. `mask` None, or reading as None: no mask file."""

    reference_id: str
    captions: tuple[str, ...]
    picture: PictureFile
    mask: PictureFile | None = None


@dataclass(frozen=True)
class CheckedSource:
    """A reference that was decoded once without a problem: where its mask is from, a digest of its pixels."""

    source: PictureSource
    mask_source: str
    digest: str


class PictureReferences:
    """References that passed `check_sources`; decoded when loaded, the last few kept (a `ReferenceSet`).

    `model_masks`: what makes the masks of those whose mask is from "model", before they are loaded.
    """

    def __init__(self, checked: Iterable[CheckedSource], model_masks: ModelMasks | None = None) -> None:
        self._checked = {item.source.reference_id: item for item in checked}
        self.model_masks = model_masks
        self._load = lru_cache(maxsize=CACHED_REFERENCES)(self._decode)
        self.pairs: tuple[PromptPair, ...] = tuple(
            pair
            for item in self._checked.values()
            for pair in prompt_pairs(item.source.reference_id, item.source.captions)
        )

    @property
    def reference_ids(self) -> tuple[str, ...]:
        """The ids of all references, in the order of their source."""
        return tuple(self._checked)

    @property
    def digests(self) -> dict[str, str]:
        """For each id a digest of the picture's pixels: equal digests are the same picture."""
        return {reference_id: item.digest for reference_id, item in self._checked.items()}

    @property
    def mask_counts(self) -> dict[str, int]:
        """How many masks come from each of MASK_SOURCES; only those that occur."""
        counts = Counter(item.mask_source for item in self._checked.values())
        return {name: counts[name] for name in MASK_SOURCES if counts[name]}

    @property
    def mask_source(self) -> str:
        """The one source of all masks, or how many there are of each: "2 files, 1 whole picture"."""
        counts = self.mask_counts
        if len(counts) == 1:
            return next(iter(counts))
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    def load(self, reference_id: str, size_px: int) -> Reference:
        """The reference as a square of `size_px`. Raises KeyError (unknown id), ValueError (unreadable)."""
        return self._load(reference_id, size_px)

    def select(self, reference_ids: Collection[str]) -> PictureReferences:
        """The set with only these references, in the same order."""
        kept = (item for reference_id, item in self._checked.items() if reference_id in reference_ids)
        return PictureReferences(kept, self.model_masks)

    def for_the_model(self, reference_ids: Collection[str] | None = None) -> list[CheckedSource]:
        """Those of these references (None: of all) whose mask a segmentation model is to make."""
        return [
            item
            for reference_id, item in self._checked.items()
            if item.mask_source == BY_MODEL and (reference_ids is None or reference_id in reference_ids)
        ]

    def decoded(self, reference_id: str) -> tuple[Picture, NDArray[np.bool_]]:
        """A reference's picture and mask (H, W) as they are. Raises KeyError (unknown id), ValueError (unreadable)."""
        item = self._checked[reference_id]
        picture = decode_picture(content_of(item.source.picture))
        if item.mask_source == BY_MODEL:
            assert self.model_masks is not None  # or nobody would have said so
            return picture, self.model_masks.read(item.digest)
        return picture, choose_mask(picture, _mask_file(item.source))[0]

    def _decode(self, reference_id: str, size_px: int) -> Reference:
        try:
            picture, mask = self.decoded(reference_id)
            return frame(picture.rgb, mask, size_px)
        except ValueError as error:
            raise ValueError(f"{self._checked[reference_id].source.picture.where}: {error}") from error


def check_sources(
    sources: Sequence[PictureSource], *, size_px: int | None = None, otherwise: str = WHOLE_PICTURE
) -> tuple[list[CheckedSource], list[str]]:
    """Decode every picture and mask once: the good references, and the problems of the others, a line each.

    With `size_px` a reference whose object vanishes at that size is a problem too. `otherwise`: where the mask of a
    picture that brings none is from. Decoding runs in threads; the order of both lists is that of `sources`.
    """

    def check(source: PictureSource) -> CheckedSource | list[str]:
        return _check(source, size_px, otherwise)

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(check, sources))
    checked = [result for result in results if isinstance(result, CheckedSource)]
    problems = [line for result in results if isinstance(result, list) for line in result]
    return checked, problems


def choose_mask(picture: Picture, mask_file: NDArray[np.bool_] | None) -> tuple[NDArray[np.bool_], str]:
    """The mask that a picture brings (H, W) and where it is from, of MASK_SOURCES; the one rule of all commands.

    The mask file if there is one, else an alpha channel that is not opaque everywhere, else the whole
    picture. Raises ValueError when the file has another size than the picture or the alpha channel is empty.
    """
    width, height = picture.rgb.size
    if mask_file is not None:
        if mask_file.shape != (height, width):
            raise ValueError(
                f"the mask must be as large as its picture, {width} x {height} px, "
                f"got {mask_file.shape[1]} x {mask_file.shape[0]} px"
            )
        return mask_file, "files"
    if picture.alpha is None or picture.alpha.min() == 255:
        return np.ones((height, width), dtype=bool), WHOLE_PICTURE
    mask: NDArray[np.bool_] = picture.alpha > OBJECT_ABOVE
    if not mask.any():
        raise ValueError(
            f"the mask is empty: the alpha channel's largest value is {picture.alpha.max()}, "
            f"the object needs more than {OBJECT_ABOVE}"
        )
    return mask, "alpha"


def _check(source: PictureSource, size_px: int | None, otherwise: str) -> CheckedSource | list[str]:
    problems: list[str] = []
    picture = mask_file = None
    try:
        picture = decode_picture(content_of(source.picture))
    except ValueError as error:
        problems.append(f"{source.picture.where}: {error}")
    try:
        mask_file = _mask_file(source)
    except ValueError as error:
        assert source.mask is not None
        problems.append(f"{source.mask.where}: {error}")
    if problems or picture is None:
        return problems
    where = source.picture.where if mask_file is None or source.mask is None else source.mask.where
    try:
        mask, mask_source = choose_mask(picture, mask_file)
        if size_px is not None:
            frame(picture.rgb, mask, size_px)
    except ValueError as error:
        return [f"{where}: {error}"]
    if mask_source == WHOLE_PICTURE:
        mask_source = otherwise
    return CheckedSource(source, mask_source, digest_of_picture(picture))


def content_of(file: PictureFile) -> Path | bytes:
    """A picture's path or bytes. Raises ValueError where there is none."""
    content = file.read()
    if content is None:
        raise ValueError("there is no picture")
    return content


def _mask_file(source: PictureSource) -> NDArray[np.bool_] | None:
    content = None if source.mask is None else source.mask.read()
    return None if content is None else decode_mask(content)


def digest_of_picture(picture: Picture) -> str:
    """A name for a picture's colours and size."""
    return blake2b(picture.rgb.tobytes(), key=repr(picture.rgb.size).encode(), digest_size=16).hexdigest()
