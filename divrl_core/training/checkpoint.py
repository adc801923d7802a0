"""The whole state of a run on disk: tensors in safetensors files, numbers in JSON, nothing pickled.

A checkpoint is a folder `checkpoint/update-000012/`, filled under another name and renamed when it is complete; the
one before it is deleted only then. So a kill at any moment leaves at least one complete checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..settings import flat
from .files import json_ready, write_atomic_folder, write_atomic_json

logger = logging.getLogger("divrl")

FORMAT = 1
UNPUBLISHED = "-unpublished"
GROUP = "group"
MAY_CHANGE = ("run.updates", "run.tracker", "run.cache")  # they change nothing that was done
_NAME = re.compile(rf"update-\d+({UNPUBLISHED})?")

Tensors = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Best:
    """The update with the best held-out measure so far; see `heldout.selection_summary` for what is measured."""

    update: int
    score: float


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that the next update depends on; all randomness is keyed, so there is no random state to keep.

    update: completed updates. is_published: whether the held-out measures, sheets and LoRA files due at this update
    have been written. data: a digest of pairs and model, where the run keeps
    one. kl_reference: the LoRA that KL holds on to, empty when it holds on to the base model. old, old_steps: the LoRA
    that draws DiffusionNFT's samples and the optimizer steps it has followed; empty and 0 for other algorithms.
    """

    update: int
    is_published: bool
    parameters: Tensors
    average: Tensors
    optimizer: Tensors
    kl_reference: Tensors
    best: Best | None
    settings: Mapping[str, Any]
    threads: int
    data: str = ""
    old: Tensors = field(default_factory=dict)
    old_steps: int = 0


def save_checkpoint(folder: Path, state: TrainState) -> Path:
    """Write `state` into a new folder inside `folder`, then drop the older ones. A state already there is kept.

    Files that are no checkpoint are left alone.
    """
    target = folder / f"update-{state.update:06d}{'' if state.is_published else UNPUBLISHED}"
    if not target.exists():
        write_atomic_folder(target, lambda unfinished: _fill(unfinished, state))
    for other in folder.glob("update-*"):
        if other != target and other.is_dir():
            shutil.rmtree(other)
    return target


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the latest state in `folder`; None when there is none."""
    complete = [path for path in folder.glob("update-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return max(complete, key=_age, default=None)


def load_checkpoint(path: Path) -> TrainState:
    """Read a checkpoint folder.

    Raises FileNotFoundError when a file of it is missing, ValueError when it was written in another format or its
    settings are not those it was saved with.
    """
    record_path = path / "state.json"
    if not record_path.is_file():
        raise FileNotFoundError(f"{record_path} is missing: not a checkpoint; give the run's own folder")
    record = json.loads(record_path.read_text(encoding="utf-8"))
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{record_path}: expected format {FORMAT}, got {record.get('format')}; start a new run"
        )
    if settings_hash(record["settings"]) != record["settings_hash"]:
        raise ValueError(
            f"{record_path}: its settings were edited by hand; start a new run to change settings"
        )
    return TrainState(
        update=record["update"],
        is_published=record["is_published"],
        parameters=_read_tensors(path, "lora"),
        average=_read_tensors(path, "average"),
        optimizer=_read_tensors(path, "optimizer"),
        kl_reference=_read_tensors(path, "kl_reference"),
        best=Best(**record["best"]) if record["best"] else None,
        settings=record["settings"],
        threads=record["threads"],
        data=record.get("data", ""),
        # A checkpoint from before there was an old policy has neither.
        old=_read_tensors(path, "old") if "old_steps" in record else {},
        old_steps=record.get("old_steps", 0),
    )


def settings_hash(settings: Mapping[str, Any]) -> str:
    """A short name for a set of settings: equal settings, equal names."""
    text = json.dumps(json_ready(settings), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_same_settings(saved: Mapping[str, Any], now: Mapping[str, Any], *, done_updates: int) -> None:
    """Refuse to go on with other settings than the run began with; only those of MAY_CHANGE may differ.

    Raises ValueError naming every changed setting with both values, or when run.updates lies below what is done.
    """
    before, after = flat(json_ready(saved)), flat(json_ready(now))
    changed = [key for key in sorted(before.keys() | after.keys()) if before.get(key) != after.get(key)]
    listed = ", ".join(
        f"{key} ({before.get(key)} -> {after.get(key)})" for key in changed if key not in MAY_CHANGE
    )
    if listed:
        raise ValueError(
            f"--resume goes on with the run's own settings, but these changed: {listed}; "
            "put them back, or start a new run in another --output folder"
        )
    if after["run.updates"] < done_updates:
        raise ValueError(
            f"run.updates is {after['run.updates']}, but {done_updates} updates are done already; give at least that"
        )


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> Tensors:
    """CPU copies of the optimizer's moments and step counts, as "<parameter>/<name>", and its own numbers.

    Some optimizers (prodigy) keep what they have learned of the rate beside the settings of their one group:
    "group/<name>".
    """
    tensors = {
        f"{name}/{part}": torch.as_tensor(value).detach().to("cpu", copy=True)
        for name, parameter in parameters.items()
        for part, value in optimizer.state.get(parameter, {}).items()
    }
    return tensors | group_numbers(optimizer)


def group_numbers(optimizer: torch.optim.Optimizer) -> Tensors:
    """The numbers of the optimizer's one group, "group/<name>"."""
    return {
        f"{GROUP}/{key}": torch.tensor(
            value, dtype=torch.float64 if isinstance(value, float) else torch.int64
        )
        for key, value in optimizer.param_groups[0].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` took; moments go to their parameter's device, step counts stay on the CPU."""
    for key, value in saved.items():
        name, _, part = key.rpartition("/")
        if name == GROUP:
            optimizer.param_groups[0][part] = value.item()
            continue
        parameter = parameters[name]
        if value.ndim == 0 and not value.is_floating_point():  # a step count that was a plain number
            optimizer.state[parameter][part] = int(value)
            continue
        device = "cpu" if part == "step" else parameter.device
        optimizer.state[parameter][part] = value.to(device, copy=True)


def _fill(folder: Path, state: TrainState) -> None:
    _write_tensors(folder, "lora", state.parameters)
    _write_tensors(folder, "average", state.average)
    _write_tensors(folder, "optimizer", state.optimizer)
    _write_tensors(folder, "kl_reference", state.kl_reference)
    _write_tensors(folder, "old", state.old)
    record = {
        "format": FORMAT,
        "update": state.update,
        "is_published": state.is_published,
        "best": {"update": state.best.update, "score": state.best.score} if state.best else None,
        "threads": state.threads,
        "data": state.data,
        "old_steps": state.old_steps,
        "torch": torch.__version__,
        "settings_hash": settings_hash(state.settings),
        "settings": state.settings,
    }
    write_atomic_json(folder / "state.json", record)


def _write_tensors(folder: Path, name: str, tensors: Tensors) -> None:
    contiguous = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    save_file(contiguous, folder / f"{name}.safetensors", metadata={"format": "pt"})


def _read_tensors(folder: Path, name: str) -> Tensors:
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: the checkpoint is not complete; start a new run")
    return load_file(path)


def _age(path: Path) -> tuple[int, bool]:
    """Order of checkpoints: by update, and for one update the published state is the later one."""
    number = path.name.removeprefix("update-").removesuffix(UNPUBLISHED)
    return int(number), not path.name.endswith(UNPUBLISHED)
