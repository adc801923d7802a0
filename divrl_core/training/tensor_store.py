"""Small groups of tensors under names made of all that they depend on: in a folder that runs and processes share, or
in memory.

Entries are files of kilobytes to a megabyte, written whole or not at all; the ones read are held while there is room.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ..models.tensor_headers import length_by_header
from .files import write_atomic_bytes

logger = logging.getLogger("divrl")

HELD_BYTES = 1 << 29  # entries kept in memory once read; the rest is read again each time

Entry = dict[str, Tensor]


class TensorStore:
    """Entries by path, in `folder`; without a folder all of them stay in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._held: dict[Path, Entry] = {}
        self._held_bytes = 0

    def path(self, kind: str, key: str) -> Path:
        """Where the entry lies that `key` names; in memory its name alone."""
        name = blake2b(key.encode(), digest_size=20).hexdigest()
        return (self.folder or Path()) / kind / name[:2] / f"{name}.safetensors"

    def is_missing(self, path: Path) -> bool:
        """Whether there is no whole entry, by its header; one of the wrong length (a broken disk) is made again."""
        if self.folder is None:
            return path not in self._held
        if not path.is_file():
            return True
        if length_by_header(path) == path.stat().st_size:
            return False
        logger.warning("%s: a damaged entry of the cache; it is made again", path)
        return True

    def read(self, path: Path) -> Entry:
        """The tensors of an entry, on the CPU.

        Raises FileNotFoundError for one that is not there, ValueError for one that is damaged.
        """
        if path in self._held:
            return self._held[path]
        if self.folder is None or not path.is_file():
            raise FileNotFoundError(
                f"{path}: no longer in the cache; run again with --resume, which makes it anew"
            )
        try:
            entry = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: a damaged entry of the cache ({error})") from error
        if self._held_bytes + entry_bytes(entry) <= HELD_BYTES:
            self._hold(path, entry)
        return entry

    def write(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Keep an entry. Raises ValueError when a number in it is not finite."""
        ready = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        for name, tensor in ready.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{path.name}: the encoder gave {name} that is not finite; try model.dtype=float32"
                )
        self._held.pop(path, None)
        if self.folder is None:
            self._hold(path, ready)
            return
        # Not flushed to the disk one by one: an entry that a power cut leaves short is found and made again.
        write_atomic_bytes(path, save(ready, metadata={"format": "pt"}), is_flushed=False)

    def _hold(self, path: Path, entry: Entry) -> None:
        self._held[path] = entry
        self._held_bytes += entry_bytes(entry)


def entry_bytes(entry: Mapping[str, Tensor]) -> int:
    """Bytes of an entry's tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in entry.values())
