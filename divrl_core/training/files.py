"""Files that are either the old ones or the new ones, never half of each.

A file is written beside its place under a name that ends in .tmp, flushed to the disk, and renamed over the old one;
a folder is filled as `name.tmp` and renamed when it is complete.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_atomic_bytes(path: Path | str, data: bytes, *, is_flushed: bool = True) -> Path:
    """Write `data` to `path` so that a reader, or a kill, finds the old content or the new one.

    `is_flushed`: wait until the disk has it, so that a power cut leaves it whole too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: two runs may write the same entry of a shared cache at once.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with unfinished.open("wb") as stream:
            stream.write(data)
            stream.flush()
            if is_flushed:
                os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def write_atomic_text(path: Path | str, text: str) -> Path:
    """Write `text` as UTF-8 with `write_atomic_bytes`."""
    return write_atomic_bytes(path, text.encode("utf-8"))


def write_atomic_json(path: Path | str, value: Any) -> Path:
    """Write `value` as indented JSON; undefined numbers (NaN) become null, so that any JSON reader can read it."""
    return write_atomic_text(path, json.dumps(json_ready(value), indent=1, allow_nan=False) + "\n")


def copy_atomic(source: Path, target: Path) -> Path:
    """Copy the file `source` over `target` without a moment in which `target` is half written."""
    unfinished = _unfinished(target)
    shutil.copyfile(source, unfinished)
    os.replace(unfinished, target)
    return target


def write_atomic_folder(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Make `folder` appear complete or not at all: `fill` writes into `folder.tmp`, which is then renamed.

    An older folder of the same name is dropped just before the renaming.
    """
    unfinished = _unfinished(folder)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    fill(unfinished)
    _flush_folder(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
    return folder


def json_ready(value: Any) -> Any:
    """The same value in JSON's own types: tuples as lists, paths as strings, NaN as None; infinity is refused."""
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        if math.isinf(value):
            raise ValueError(f"a number for a JSON file must be finite or undefined, got {value}")
        return None if math.isnan(value) else value
    return value


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".tmp")


def _flush_folder(folder: Path) -> None:
    """Ask the disk to hold every file of a folder before the folder gets its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
