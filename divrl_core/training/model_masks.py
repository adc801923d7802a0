"""Masks that a segmentation model makes of pictures that bring none: made once, kept by what they depend on.

A mask is named by the picture's pixels, the model's files and the settings, so another start, another run with the same
folder, and the other processes of a run do not make it again. The model is read only where a mask is missing, and let
go afterwards.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..config import SegmenterConfig
from ..models.segmentation.base import Segmenter, load_segmenter
from ..models.segmentation.files import SegmenterFiles, find_segmenter
from .picture_references import CheckedSource, PictureReferences, content_of
from .pictures import Picture, decode_picture, frame, picture_tensor
from .processes import Processes
from .references import DataProblems, ReferenceSet, SomePairs
from .tensor_store import TensorStore

logger = logging.getLogger("divrl")

VERSION = 1  # of how a mask is made: raise it when that changes, and old entries are left alone
REMEDY = "give it a mask, name the subject's labels, lower the threshold, or take another model"


class ModelMasks:
    """The masks of one model, by the digests of the pictures."""

    def __init__(self, config: SegmenterConfig) -> None:
        self._config = config
        self._store = TensorStore(None)
        self._found: SegmenterFiles | None = None
        self._fingerprint = ""

    @property
    def name(self) -> str:
        """The model, as the settings name it."""
        return str(self._config.model)

    def make(
        self,
        items: Sequence[CheckedSource],
        *,
        folder: Path | None = None,
        device: str | torch.device = "cpu",
        part: tuple[int, int] = (0, 1),
        size_px: int | None = None,
        is_quiet: bool = False,
    ) -> list[str]:
        """Make the masks that are missing; returns the pictures in which nothing was found, a line each.

        folder: where masks are kept; None = in memory. part (index, count): this process's share, each count-th.
        size_px: a subject that vanishes when the picture is framed to this side is a problem too. Raises ValueError,
        FileNotFoundError or ImportError in one line when the model cannot be had.
        """
        if not items:
            return []
        if folder != self._store.folder:
            self._store = TensorStore(folder)
        found = self._find()
        index, count = part
        own = list({item.digest: item for item in items}.values())[index::count]
        missing = [item for item in own if self._store.is_missing(self._path(item.digest))]
        if missing:
            segmenter = load_segmenter(self._config, found=found, device=device)
            logger.info("masks of %d pictures by %s", len(missing), segmenter.source)
            for item in tqdm(missing, desc="masks", disable=is_quiet, leave=False):
                self._write(item.digest, mask_of_picture(segmenter, _picture(item)))
            del segmenter
            free_memory(torch.device(device))
        problems = (self._problem(item, size_px) for item in own)
        return [problem for problem in problems if problem]

    def read(self, digest: str) -> NDArray[np.bool_]:
        """The mask (H, W) of a picture for which `make` was asked. Raises FileNotFoundError where it is gone."""
        assert self._found is not None, "masks are made before they are read"
        entry = self._store.read(self._path(digest))
        height, width = entry["shape"].tolist()
        bits: NDArray[np.uint8] = np.unpackbits(entry["bits"].numpy(), count=height * width)
        return bits.reshape(height, width).astype(bool)

    def _find(self) -> SegmenterFiles:
        if self._found is None:
            self._found = find_segmenter(self._config)
            self._fingerprint = self._found.fingerprint
        return self._found

    def _path(self, digest: str) -> Path:
        config = self._config
        settings = (config.subject_labels, config.threshold, config.normalisation, config.output)
        return self._store.path("masks", f"{VERSION}/{self._fingerprint}/{settings}/{digest}")

    def _write(self, digest: str, mask: NDArray[np.bool_]) -> None:
        bits = torch.from_numpy(np.packbits(mask))
        self._store.write(self._path(digest), {"bits": bits, "shape": torch.tensor(mask.shape)})

    def _problem(self, item: CheckedSource, size_px: int | None) -> str | None:
        where, mask = item.source.picture.where, self.read(item.digest)
        if not mask.any():
            return f"{where}: {self._config.model} found no subject in it: {REMEDY}"
        if size_px is not None:
            try:
                frame(_picture(item).rgb, mask, size_px)
            except ValueError as error:
                return f"{where}: by {self._config.model}: {error}"
        return None


def mask_of_picture(segmenter: Segmenter, picture: Picture) -> NDArray[np.bool_]:
    """The subject in one picture (H, W), empty where nothing is found."""
    mask: NDArray[np.bool_] = segmenter.masks(picture_tensor(picture.rgb)[None])[0].numpy()
    return mask


def make_masks(
    wanted: Iterable[tuple[ReferenceSet, Iterable[str]]],
    folder: Path,
    processes: Processes,
    *,
    size_px: int,
) -> None:
    """Make the masks of these references that a model is to make; the processes of a machine share the work.

    Raises DataProblems naming every picture in which nothing was found.
    """
    items: dict[ModelMasks, list[CheckedSource]] = {}
    for references, reference_ids in wanted:
        whole = references.references if isinstance(references, SomePairs) else references
        if isinstance(whole, PictureReferences) and whole.model_masks is not None:
            items.setdefault(whole.model_masks, []).extend(whole.for_the_model(set(reference_ids)))
    problems: list[str] = []
    for masks, sources in items.items():
        problems += masks.make(
            sources,
            folder=folder,
            device=processes.device,
            part=(processes.local_index, processes.local_count),
            size_px=size_px,
            is_quiet=not processes.is_main,
        )
    problems = list(dict.fromkeys(processes.gather(problems)))
    if problems:
        raise DataProblems(problems)


def _picture(item: CheckedSource) -> Picture:
    return decode_picture(content_of(item.source.picture))


def free_memory(device: torch.device) -> None:
    """Give back what a model held that was let go just now."""
    gc.collect()  # transformers' modules refer to themselves
    if device.type == "cuda":
        torch.cuda.empty_cache()
