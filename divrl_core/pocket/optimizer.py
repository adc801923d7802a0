"""Muon for the transformer's blocks and AdamW for the rest, as one optimizer: from-scratch training in few steps."""

from __future__ import annotations

from typing import Any

import torch

from .muon import Muon


class BlockOptimizer:
    """Muon on the blocks' matrices, AdamW at half the learning rate on embedders, norms, biases and the last layer."""

    def __init__(self, module: torch.nn.Module, lr: float) -> None:
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in module.named_parameters():
            (matrices if parameter.ndim == 2 and "blocks" in name else others).append(parameter)
        self.muon = Muon(matrices, lr=lr)
        self.adamw = torch.optim.AdamW(others, lr=lr * 0.5, betas=(0.9, 0.98), weight_decay=0.0)
        self._matrix_count = len(matrices)

    def set_rate(self, lr: float) -> None:
        """Set the learning rate of both parts."""
        self.muon.param_groups[0]["lr"], self.adamw.param_groups[0]["lr"] = lr, lr * 0.5

    def step(self) -> None:
        """Take both steps."""
        self.muon.step()
        self.adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The states of both, numbered through."""
        first, second = self.muon.state_dict()["state"], self.adamw.state_dict()["state"]
        return {
            "state": dict(first) | {index + self._matrix_count: value for index, value in second.items()},
            "param_groups": [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        first: dict[int, Any] = {}
        second: dict[int, Any] = {}
        for index, value in state_dict["state"].items():
            if index < self._matrix_count:
                first[index] = value
            else:
                second[index - self._matrix_count] = value
        for part, half in ((self.muon, first), (self.adamw, second)):
            part.load_state_dict({"state": half, "param_groups": part.state_dict()["param_groups"]})
