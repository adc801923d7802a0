"""Modules without memory: shapes and dtypes that run, as real ones would, and hold nothing.

A module is built on the meta device and its tensors are replaced by fake ones that say they lie on the CPU, because
autocast does not know the meta device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

Module = TypeVar("Module", bound=nn.Module)


def on_meta(build: Callable[[], Module], dtype: torch.dtype) -> Module:
    """What `build` makes, frozen, without weights, its floating-point parameters in `dtype`."""
    before = torch.get_default_dtype()
    level = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
            return build().eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(before)
        diffusers_logging.set_verbosity(level)


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Inside this block new tensors have no memory. What is made in one such block is of no use in another."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def as_fake(module: Module) -> Module:
    """The module itself, every parameter and buffer replaced by a fake one; call it inside `fake_tensors()`."""
    made: dict[int, nn.Parameter] = {}  # a parameter that two parts share stays shared
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and id(parameter) not in made:
                empty = torch.empty_strided(
                    parameter.shape, parameter.stride(), dtype=parameter.dtype, device="cpu"
                )
                made[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
            if parameter is not None:
                part._parameters[name] = made[id(parameter)]
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cpu")
    return module


def bytes_of(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, each once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
