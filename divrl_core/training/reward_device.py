"""Where the reward works: the device that `reward.device` names, or the model's."""

from __future__ import annotations

import torch


def usable_device(name: str, setting: str = "reward.device") -> torch.device:
    """The device of that name. Raises ValueError, in one line, when nothing can be computed on it here."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{setting} must be a device such as cuda:1 or cpu, got {name!r}") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        there = "no CUDA device" if count == 0 else f"{count} of them, cuda:0 to cuda:{count - 1}"
        raise ValueError(f"{setting}={name} cannot be used here: there is {there}; name another, such as cpu")
    try:
        (torch.ones(1, device=device) + 1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{setting}={name} cannot be used here ({first}); name another, such as cpu"
        ) from error
    return device


def is_same_device(first: torch.device, second: torch.device) -> bool:
    """Whether two names mean one device; a GPU without a number is the one in use now."""
    return first.type == second.type and _number(first) == _number(second)


def _number(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    return torch.cuda.current_device() if device.type == "cuda" else 0
