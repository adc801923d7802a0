"""Reading a run folder, as the training loop leaves it: settings, rows of metrics, held-out scores, sample
sheets.

A folder is read as it is found: a last line cut off by a kill, a row written twice by a resumed run, a
sheet that is not there yet are no reason to fail. What could not be read is told in `problems`, which the
report shows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One stage of training as its folder tells it. `heldout` rows, files and sheets are in order of
    updates.
    """

    path: Path
    stage: str
    settings: Mapping[str, Any]
    train: tuple[Row, ...]
    heldout: tuple[Row, ...]
    heldout_files: Mapping[int, Path] = field(default_factory=dict)
    sheets: Mapping[int, Path] = field(default_factory=dict)
    loras: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def last_update(self) -> int:
        """The last update any row tells of."""
        return max((int(row["update"]) for row in [*self.train, *self.heldout]), default=0)

    @property
    def planned_updates(self) -> int | None:
        """The length the settings ask for."""
        value = setting_of(self.settings, "run.updates")
        return int(value) if value is not None else None


def is_run_folder(path: Path) -> bool:
    """Whether the folder holds what a training run writes first."""
    return (path / "settings.yaml").is_file() or (path / "metrics.jsonl").is_file()


def is_demo_folder(path: Path) -> bool:
    """Whether the folder holds the two stages of a demo."""
    return is_run_folder(path / "explore") and is_run_folder(path / "suppress")


def read_run(path: Path) -> RunRecord:
    """Reads a run folder.

    Raises FileNotFoundError when the folder does not exist, and ValueError when it is no run folder, when
    its settings are not a mapping, or when nothing has been measured yet.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"run folder not found: {path}; give the folder that divrl-train wrote to")
    if not is_run_folder(path):
        raise ValueError(
            f"{path} is not a run folder: it has no settings.yaml and no metrics.jsonl; give runs/NAME"
        )
    settings, problems = _read_settings(path / "settings.yaml")
    rows, bad_lines = read_rows(path / "metrics.jsonl")
    if bad_lines:
        problems.append(f"{bad_lines} unreadable line(s) in {path.name}/metrics.jsonl were left out")
    train = _by_update([row for row in rows if row.get("kind") == "train"])
    heldout = _by_update([row for row in rows if row.get("kind") == "heldout"])
    if not train and not heldout:
        raise ValueError(
            f"{path} has no metrics yet: metrics.jsonl is missing or empty; wait for the first update"
        )
    problems += [str(row["message"]) for row in rows if row.get("kind") == "warning" and row.get("message")]
    first = (train or heldout)[0]
    return RunRecord(
        path=path,
        stage=str(settings.get("stage") or first.get("stage") or "explore"),
        settings=settings,
        train=train,
        heldout=heldout,
        heldout_files=_numbered(path / "heldout", ".json"),
        sheets=_numbered(path / "samples", ".jpg"),
        loras=tuple(sorted(file.name for file in (path / "lora").glob("*.safetensors"))),
        problems=tuple(dict.fromkeys(problems)),
    )


def find_parent(record: RunRecord) -> Path | None:
    """The run folder a run started from, by its `run.init_lora` (a run folder or a LoRA file in one); None if
    unknown.

    A relative path is looked up from the working directory and from the folders above the run.
    """
    name = setting_of(record.settings, "run.init_lora")
    if not name:
        return None
    for base in (Path(), *record.path.resolve().parents):
        origin = base / str(name)
        for folder in (origin, origin.parent, origin.parent.parent):
            if origin.exists() and is_run_folder(folder) and folder.resolve() != record.path.resolve():
                return folder
    return None


def read_rows(path: Path) -> tuple[list[Row], int]:
    """The rows of a metrics.jsonl and how many lines could not be read; a cut-off last line is not
    counted.
    """
    if not path.is_file():
        return [], 0
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[Row] = []
    bad_lines = 0
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif index < len(lines) - 1:
            bad_lines += 1
    return rows, bad_lines


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON file that holds one object. Raises FileNotFoundError or ValueError, each with the path."""
    if not path.is_file():
        raise FileNotFoundError(f"file not found: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); delete it and run again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object, got {type(content).__name__}")
    return content


def setting_of(settings: Mapping[str, Any], dotted: str) -> Any:
    """The value at `section.name` of nested settings; None where a part of the path is missing."""
    value: Any = settings
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _read_settings(path: Path) -> tuple[Mapping[str, Any], list[str]]:
    if not path.is_file():
        return {}, [f"{path.parent.name} has no settings.yaml: its settings are unknown"]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold sections of settings, got {type(content).__name__}")
    return content, []


def _parse(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return (
        row
        if isinstance(row, dict) and (isinstance(row.get("update"), int) or row.get("kind") == "warning")
        else None
    )


def _by_update(rows: list[Row]) -> tuple[Row, ...]:
    """Rows in order of updates; of rows with the same update the last one written counts."""
    latest = {int(row["update"]): row for row in rows}
    return tuple(latest[update] for update in sorted(latest))


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    found = {}
    for file in folder.glob(f"update-*{suffix}"):
        match = re.fullmatch(r"update-(\d+)", file.stem)
        if match:
            found[int(match.group(1))] = file
    return {update: found[update] for update in sorted(found)}
