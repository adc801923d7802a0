"""Everything about a cfm run that can be known before a model loads, told at once."""

from __future__ import annotations

from ..config_cfm import CfmConfig
from .optimizer import missing_package
from .pair_data import CfmData, open_pairs
from .preflight import lora_problems, model_problems, raise_problems, tracker_problems
from .references import DataProblems


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
