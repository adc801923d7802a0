"""Training state of a pocket stage on disk: weights, their moving average and AdamW's moments, as safetensors."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file


class Stateful(Protocol):
    """What is needed of an optimizer here."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a state back."""


def save_state(
    folder: Path,
    module: torch.nn.Module,
    average: torch.nn.Module,
    optimizer: Stateful,
    step: int,
) -> None:
    """Write the state beside `folder` and put it in its place in one rename."""
    fresh, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(_contiguous(module.state_dict()), fresh / "weights.safetensors")
    save_file(_contiguous(average.state_dict()), fresh / "average.safetensors")
    moments = {}
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            moments[f"{index}.{name}"] = value.contiguous()
    save_file(moments, fresh / "optimizer.safetensors")
    (fresh / "state.json").write_text(json.dumps({"step": step}))
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(folder: Path, module: torch.nn.Module, average: torch.nn.Module, optimizer: Stateful) -> int:
    """Restore a saved state in place and return the number of finished steps; 0 where nothing was saved."""
    old = folder.with_suffix(".old")
    if not folder.exists() and old.exists():  # killed between the two renames
        os.rename(old, folder)
    if not folder.exists():
        return 0
    module.load_state_dict(load_file(folder / "weights.safetensors"))
    average.load_state_dict(load_file(folder / "average.safetensors"))
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    return int(json.loads((folder / "state.json").read_text())["step"])


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
