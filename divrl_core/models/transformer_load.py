"""The transformer of a pipeline, as the settings want it held: read in its dtype, packed, offloaded, compiled."""

from __future__ import annotations

import logging
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from safetensors import SafetensorError
from torch import nn

from .base_options import BaseOptions
from .components import load_module, quiet
from .hub import PipelineFolder
from .last_block import LastBlock, prepare_last_block
from .offload import offload_blocks
from .quantized import hold_quantized, try_kind
from .single_file import load_single_file

logger = logging.getLogger("divrl")

COMPILE_BACKEND = "inductor"


def load_transformer(
    folder: PipelineFolder, options: BaseOptions, *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The frozen FluxTransformer2DModel in eval mode.

    Its weights are read straight into `dtype`, and straight onto `device` where nothing is done to them on the way;
    packed and offloaded ones pass through host memory, into which they are mapped.

    Raises ValueError, FileNotFoundError or ImportError, in one line, when files or options cannot be used.
    """
    if options.missing_packages:
        raise ImportError(options.missing_packages[0])
    if options.quantization != "none":
        try_kind(options.quantization, dtype=dtype, device=device)
    passes_host = options.quantization != "none" or options.offload_blocks > 0 or options.is_sharded
    first = torch.device("cpu") if passes_host else device
    transformer = _read(folder, dtype=dtype, device=first)
    prepare_last_block(transformer)
    if options.quantization != "none":
        hold_quantized(transformer, options.quantization, dtype=dtype, device=device)
    if options.offload_blocks:
        offload_blocks(transformer, options.offload_blocks, device)
    if options.compile:
        compile_blocks(transformer)
    return transformer


def compile_blocks(transformer: nn.Module, backend: str = COMPILE_BACKEND) -> None:
    """Compile each repeated block, when it is first called, with the LoRA it then holds (diffusers' regional one)."""
    transformer.compile_repeated_blocks(backend=backend)  # type: ignore[operator]
    for block in transformer.modules():
        if isinstance(block, LastBlock):  # diffusers knows its repeated blocks by the class's name
            block.compile(backend=backend)


def transformer_config(folder: PipelineFolder) -> dict[str, Any]:
    """The transformer's config.json. Raises ValueError when it cannot be read."""
    path = folder.part("transformer")
    try:
        config: dict[str, Any] = FluxTransformer2DModel.load_config(str(path), local_files_only=True)
    except (OSError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: could not be loaded: {first_line}") from error
    return config


def _read(folder: PipelineFolder, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    file = folder.transformer_file
    if file is None:
        return load_module(folder, "transformer", FluxTransformer2DModel, dtype=dtype, device=device)
    logger.info("loading transformer (%s, %s)", file.name, str(dtype).removeprefix("torch."))
    try:
        with quiet():
            transformer = load_single_file(file, folder.part("transformer"), dtype=dtype, device=device)
    except (OSError, SafetensorError, RuntimeError, KeyError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError | FileNotFoundError):
            raise
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file}: could not be loaded: {first_line}") from error
    return transformer.requires_grad_(False).eval()
