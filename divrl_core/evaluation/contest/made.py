"""What a folder's files follow from, beside them, so that another start knows which are still good.

OUTPUT/pictures/MODEL/made_with.json   {"parts": {"steps": 28, ...}, "items": {"fox/0": "1f3c...", ...}}

parts: settings and digests of all of it. items: digests of what single files follow from (a question: its prompt and
its reference's pixels); there may come more, with more questions or pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...training.files import json_ready, write_atomic_json

FILE = "made_with.json"


@dataclass(frozen=True, kw_only=True)
class MadeWith:
    """See the top of the file."""

    parts: Mapping[str, Any]
    items: Mapping[str, str] = field(default_factory=dict)


def check_made(folder: Path, now: MadeWith, *, kind: str = "*.png") -> None:
    """Raises ValueError where the folder holds files that would be made otherwise now, naming what differs.

    A folder that is not there, or empty, is good; one with files (`kind`) and no FILE is not.
    """
    path = folder / FILE
    if not path.is_file():
        if folder.is_file() or (folder.is_dir() and any(folder.rglob(kind))):
            raise ValueError(f"{folder}: holds files that nothing here made (no {FILE}); {_OTHERWISE}")
        return
    before = read_made(path)
    if differences := _differences(before, now):
        raise ValueError(f"{folder}: was made with {'; '.join(differences)}; {_OTHERWISE}")


def write_made(folder: Path, now: MadeWith) -> None:
    """Write what the folder's files follow from, beside what was made before."""
    path = folder / FILE
    before = read_made(path).items if path.is_file() else {}
    write_atomic_json(path, {"parts": dict(now.parts), "items": {**before, **now.items}})


def read_made(path: Path) -> MadeWith:
    """Raises ValueError for a file that is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return MadeWith(parts=dict(content["parts"]), items=dict(content["items"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); {_OTHERWISE}") from error


_OTHERWISE = "name another --output, or delete the folder to make it anew"
_SHOWN = 3


def _differences(before: MadeWith, now: MadeWith) -> list[str]:
    parts: dict[str, Any] = json_ready(dict(now.parts))
    names = dict.fromkeys([*parts, *before.parts])
    told = [
        f"{name} {_word(before.parts.get(name))}, here {_word(parts.get(name))}"
        for name in names
        if before.parts.get(name) != parts.get(name)
    ]
    changed = [name for name, digest in now.items.items() if before.items.get(name, digest) != digest]
    if changed:
        more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        told.append(f"a different {', '.join(changed[:_SHOWN])}{more}")
    return told


def _word(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
