"""What a file of weights says of itself before a weight is read: names, shapes and kinds of its tensors.

Nothing is unpickled, here or later: a pickle is refused by its name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")
SAFETENSORS = (".safetensors", ".sft")
GGUF = ".gguf"
MOST_HEADER_BYTES = 100_000_000  # safetensors' own limit


@dataclass(frozen=True)
class TensorHeader:
    """A tensor's shape, and its kind as the file calls it: BF16, F8_E4M3, Q4_K, ..."""

    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class FileHeader:
    """The tensors of a file by name, and its free text (safetensors' __metadata__)."""

    tensors: Mapping[str, TensorHeader]
    metadata: Mapping[str, str]


def read_header(path: Path) -> FileHeader:
    """The header of a .safetensors (or .sft) or .gguf file.

    Raises FileNotFoundError where there is no such file, ValueError where it is a pickle, of another kind, damaged or
    cut off, ImportError where reading GGUF needs its package; one line each.
    """
    suffix = path.suffix.lower()
    if path.is_dir():
        raise ValueError(
            f"{path}: is a folder; a .safetensors or .gguf file is needed (a folder goes into model.path)"
        )
    if suffix in PICKLES:
        raise ValueError(
            f"{path}: {suffix} files are pickles, which can run code when they are read; get the model as .safetensors "
            "or .gguf"
        )
    if suffix not in (*SAFETENSORS, GGUF):
        raise ValueError(f"{path}: a .safetensors or .gguf file is needed")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return _gguf_header(path) if suffix == GGUF else _safetensors_header(path)


def length_by_header(path: Path) -> int | None:
    """Length of a safetensors file by its header (8 bytes, JSON of that length, tensors); None where it is none."""
    content = _json_header(path)
    return None if content is None else _length(*content)


def _safetensors_header(path: Path) -> FileHeader:
    content = _json_header(path)
    needed = None if content is None else _length(*content)
    if content is None or needed is None:
        raise ValueError(f"{path}: not a safetensors file; get it again")
    if needed != path.stat().st_size:
        raise ValueError(
            f"{path}: needs {needed} bytes by its header, got {path.stat().st_size}; get it again"
        )
    header = dict(content[1])
    metadata = header.pop("__metadata__", None) or {}
    try:
        tensors = {
            name: TensorHeader(tuple(int(side) for side in entry["shape"]), str(entry["dtype"]))
            for name, entry in header.items()
        }
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: not a safetensors file; get it again") from None
    return FileHeader(tensors, metadata)


def _json_header(path: Path) -> tuple[int, dict[str, Any]] | None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER_BYTES, path.stat().st_size):
            return None
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return None
    return (length, header) if isinstance(header, dict) else None


def _length(length: int, header: Mapping[str, Any]) -> int | None:
    try:
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        return 8 + length + max(ends, default=0)
    except (KeyError, TypeError, IndexError):
        return None


def _gguf_header(path: Path) -> FileHeader:
    """By the gguf package, which maps the file; a quantised row's shape is given in weights, not bytes."""
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(f"{path}: reading it needs the package gguf: pip install gguf") from error
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file; get it again")
    try:
        reader = GGUFReader(str(path))
    except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: damaged or cut off ({first_line}); get it again") from error
    return FileHeader(
        {
            tensor.name: TensorHeader(
                # GGUF names the fastest side first
                tuple(int(side) for side in reversed(tensor.shape)),
                tensor.tensor_type.name,
            )
            for tensor in reader.tensors
        },
        {},
    )
