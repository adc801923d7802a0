"""Loading one component of a pipeline: in its dtype from the start, whole or not at all, without chatter."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from torch import nn
from transformers.utils import logging as transformers_logging

from .hub import PipelineFolder

logger = logging.getLogger("divrl")

Module = TypeVar("Module", bound=nn.Module)


def load_module(
    folder: PipelineFolder, component: str, kind: type[Module], *, dtype: torch.dtype, device: torch.device
) -> Module:
    """Load a component for use: weights read straight into `dtype` and onto `device`, in eval mode, frozen.

    Each weight passes by itself from the file, which is mapped: no copy of the whole in another dtype is ever made, and
    on the CPU none at all where the file is in `dtype` already. Pickles (.bin) are not read.

    Args:
        folder: a checked pipeline.
        component: its sub-folder, e.g. "transformer".
        kind: class of diffusers or transformers with `from_pretrained`.
        dtype: dtype of the weights (T5 keeps a few in float32 under float16, as transformers does).
        device: where it shall lie.

    Raises ValueError in one line when the files are damaged, incomplete, or do not fit the config.
    """
    path = folder.part(component)
    logger.info("loading %s (%s, %s)", component, kind.__name__, str(dtype).removeprefix("torch."))
    module, missing = read_module(path, kind, dtype=dtype, device=device)
    refuse_missing(path, kind, missing)
    return module


def read_module(
    path: Path, kind: type[Module], *, dtype: torch.dtype, device: torch.device, **options: Any
) -> tuple[Module, list[str]]:
    """A module from its folder, as above, and the names of its weights that are not in the files.

    Those hold random numbers: both libraries go on without a word. `options` are for `from_pretrained`.
    """
    loader: Any = kind
    try:
        with quiet():
            module, report = loader.from_pretrained(
                str(path),
                torch_dtype=dtype,
                low_cpu_mem_usage=True,
                device_map=None if device.type == "cpu" else {"": str(device)},
                use_safetensors=True,
                output_loading_info=True,
                local_files_only=True,
                **options,
            )
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        if "meta tensor" in first_line:  # what is left on the way to a GPU where files lack a weight
            first_line = "weights are missing in the files; download or save the model again"
        raise ValueError(f"{path}: could not be loaded as {kind.__name__}: {first_line}") from error
    return module.requires_grad_(False).eval(), sorted(report["missing_keys"])


def refuse_missing(path: Path, kind: type[nn.Module], missing: list[str]) -> None:
    """Raise ValueError when weights are missing, with their number and the first."""
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} weights of {kind.__name__} are not in the files, the first is "
            f"{missing[0]}; download or save it again"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence both libraries' remarks while loading (the checks above replace them); put all back after."""
    levels = diffusers_logging.get_verbosity(), transformers_logging.get_verbosity()
    has_bars = diffusers_logging.is_progress_bar_enabled(), transformers_logging.is_progress_bar_enabled()
    diffusers_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.set_verbosity(levels[0])
        transformers_logging.set_verbosity(levels[1])
        if has_bars[0]:
            diffusers_logging.enable_progress_bar()
        if has_bars[1]:
            transformers_logging.enable_progress_bar()
