"""A short name for a component of a pipeline, for caches: other files, another name."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from .hub import PipelineFolder

BLOCK_BYTES = 1 << 20


def component_fingerprint(folder: PipelineFolder, *components: str) -> str:
    """A digest of the components' files: names and sizes of all, and the first, middle and last MiB of each.

    So a text encoder of 9 GB is named without being read whole; files that differ elsewhere alone are taken for equal.
    """
    digest = blake2b(digest_size=16)
    for component in components:
        files = [path for path in folder.part(component).rglob("*") if path.is_file()]
        if component == "transformer" and folder.transformer_file is not None:
            files.append(folder.transformer_file)
        for path in sorted(files):
            size = path.stat().st_size
            digest.update(f"{component}/{path.name}:{size};".encode())
            _add_blocks(digest, path, size)
    return digest.hexdigest()


def files_fingerprint(files: Iterable[Path]) -> str:
    """The same of files that belong to no pipeline, whose folder's name says nothing."""
    digest = blake2b(digest_size=16)
    for path in sorted(files):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size};".encode())
        _add_blocks(digest, path, size)
    return digest.hexdigest()


def path_word(path: str) -> str:
    """A path to weights by what lies there: the file's or folder's name with its fingerprint; of a hub id the id.

    So the same files named otherwise are the same word, and others in their place are not. Hidden files do not count.
    """
    place = Path(path).expanduser()
    if not place.exists():
        return path
    found = place.rglob("*") if place.is_dir() else (place,)
    files = [
        one
        for one in found
        if one.is_file() and not any(part.startswith(".") for part in one.relative_to(place).parts)
    ]
    return f"{place.resolve().name} ({files_fingerprint(files)[:12]})"


def _add_blocks(digest: blake2b, path: Path, size: int) -> None:
    with path.open("rb") as stream:
        for start in sorted({0, max(0, size // 2), max(0, size - BLOCK_BYTES)}):
            stream.seek(start)
            digest.update(stream.read(BLOCK_BYTES))
