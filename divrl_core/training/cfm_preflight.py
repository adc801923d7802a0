"""Everything about a cfm run that can be known before a model loads, told at once."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..config_cfm import CfmConfig
from ..models.hub import open_pipeline
from ..models.model_names import POCKETS
from .optimizer import missing_package
from .pair_data import CfmData, open_pairs
from .preflight import lora_problems, model_problems, raise_problems, tracker_problems
from .references import DataProblems

if TYPE_CHECKING:
    from ..models.lora_size import LoraSize

logger = logging.getLogger("divrl")


def check_cfm(config: CfmConfig, *, is_resumed: bool = False) -> CfmData:
    """Check pairs, model files, LoRA, optimizer and tracker without loading a model, and return the opened pairs.

    All pictures are decoded once. `is_resumed`: the run goes on from a checkpoint, so run.init_lora is not needed.
    Raises ValueError with every problem found, each on a line of its own.
    """
    missing = missing_package(config.optim)
    problems = [
        *model_problems(config.model),
        *([] if is_resumed else lora_problems(config)),
        *tracker_problems(config.run.tracker),
        *([missing] if missing else []),
    ]
    data = None
    try:
        data = open_pairs(config.data, seed=config.run.seed)
    except DataProblems as error:
        problems += error.lines
    raise_problems(problems)
    assert data is not None
    return data


def size_of_lora(config: CfmConfig) -> LoraSize | None:
    """How large the LoRA will be, from the model's config; None for a hub id that would have to be downloaded first.

    Raises ValueError when lora.targets match no layer.
    """
    if config.model.path not in POCKETS and not Path(config.model.path).expanduser().is_dir():
        return None
    from ..models.lora_size import lora_size, transformer_on_meta  # imports diffusers

    file = config.model.transformer_file
    folder = open_pipeline(config.model.path, transformer_file=Path(file).expanduser() if file else None)
    transformer = transformer_on_meta(folder.part("transformer"))
    size = lora_size(transformer, config.lora.targets, config.lora.rank)
    if not size.linears:
        raise ValueError(f"lora.targets={config.lora.targets!r} matches no linear layer of this transformer")
    return size


def lora_line(config: CfmConfig, size: LoraSize) -> str:
    """What the LoRA takes: layers, parameters, memory and disk, in one line."""
    name = config.optim.name
    return (
        f"LoRA: {size.linears} linear layers, rank {config.lora.rank}: {size.parameters / 1e6:,.1f} M parameters; in "
        f"training {_bytes(size.training_bytes(name))} (weights, gradients, {name}; float32) and "
        f"{_bytes(size.average_bytes())} of average; file {_bytes(size.file_bytes())}; checkpoint "
        f"{_bytes(size.checkpoint_bytes(name))}, on disk twice and on the CPU once while it is written"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
