"""Everything about a run that can be known before a model loads, told at once."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig, TrainConfig
from ..models.base_options import BaseOptions, offload_problem
from ..models.hub import open_pipeline
from ..models.lora_file import check_layout, read_lora
from ..models.model_names import (
    POCKET_FOLDER,
    POCKET_TEXT_TO_IMAGE,
    POCKETS,
    TEXT_TO_IMAGE_PART,
    is_hub_id,
)
from ..models.segmentation.files import segmenter_problems
from .data import DataProblems, RunData, open_data
from .model_files import pipeline_problems
from .optimizer import missing_package
from .reward_checks import reward_problems

if TYPE_CHECKING:
    from .run_folder import RunSettings

logger = logging.getLogger("divrl")

POCKET_SIZE_PX = 128
TRACKER_PACKAGES = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "comet_ml": ("comet_ml",),
    "aim": ("aim",),
    "mlflow": ("mlflow",),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
    "swanlab": ("swanlab",),
}


def check(config: TrainConfig, *, is_resumed: bool = False) -> RunData:
    """Check data, model files, LoRA, tracker and reward without loading a model, and return the opened data.

    All pictures are decoded once. `is_resumed`: the run goes on from a checkpoint, so run.init_lora is not needed.
    Raises ValueError with every problem found, each on a line of its own.
    """
    missing = missing_package(config.optim)
    problems = [
        *model_problems(config.model),
        *([] if is_resumed else lora_problems(config)),
        *tracker_problems(config.run.tracker),
        *([missing] if missing else []),
        *reward_problems(config.reward),
        *(f"data.segmenter.model: {problem}" for problem in segmenter_problems(config.data.segmenter)),
    ]
    data = None
    try:
        data = open_data(config.data, seed=config.run.seed, size_px=_known_size_px(config.model))
        problems += _count_problems(config, data)
    except DataProblems as error:
        problems += error.lines
    raise_problems(problems)
    assert data is not None
    logger.info(
        "%d pairs to train on, masks: %s; %d pairs held out, masks: %s",
        len(data.train.pairs),
        data.train.mask_source,
        len(data.held_out.pairs),
        data.held_out.mask_source,
    )
    return data


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one ValueError that names all of them; nothing when there is none."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ValueError(
            "\n".join([f"{count} found before loading anything:", *(f"  - {line}" for line in problems)])
        )


def model_problems(config: ModelConfig) -> list[str]:
    """What keeps the model from being opened and held as asked, a line each; of a hub id nothing is known yet."""
    problems = path_problems(config)
    folder = None if problems else _transformer_folder(config.path)
    return [*problems, *base_problems(config, folder)]


def path_problems(config: ModelConfig) -> list[str]:
    """What keeps model.path from being a pipeline, a line each."""
    needs_transformer = config.transformer_file is None
    if config.path in POCKETS:
        return pipeline_problems(POCKET_FOLDER, needs_transformer=needs_transformer)
    path = Path(config.path).expanduser()
    if path.is_dir():
        return pipeline_problems(path, needs_transformer=needs_transformer)
    if path.is_file() or not is_hub_id(config.path):
        return [
            f"model.path: no folder {config.path!r}; needs a FLUX pipeline's folder, a hub id "
            f"(owner/name) or {' or '.join(POCKETS)}"
        ]
    return []


def base_problems(config: ModelConfig, transformer: Path | None) -> list[str]:
    """What keeps the base from being held as asked, a line each.

    `transformer` is the folder with the transformer's config.json; None where it is not known yet.
    """
    file = None if config.transformer_file is None else Path(config.transformer_file).expanduser()
    try:
        options = BaseOptions(transformer_file=file, quantization=config.quantization, compile=config.compile)
    except ValueError as error:
        return [str(error)]
    offload = offload_problem(
        config.offload_blocks, gradient_checkpointing=config.gradient_checkpointing
    ) or too_many_blocks(config.offload_blocks, transformer)
    problems = [*options.missing_packages, *([] if offload is None else [offload])]
    if file is not None and not problems:
        from ..models.single_file import check_single_file  # imports diffusers

        try:
            check_single_file(file, None if transformer is None else _read_config(transformer))
        except (FileNotFoundError, ValueError, ImportError) as error:
            problems.append(f"model.transformer_file: {error}")
    return problems


def too_many_blocks(count: int, transformer: Path | None) -> str | None:
    """Why `count` blocks cannot be offloaded, by the transformer's config.json; None where they can."""
    if not count or transformer is None:
        return None
    config = _read_config(transformer)
    held = int(config.get("num_layers", 19)) + int(config.get("num_single_layers", 38))
    if count <= held:
        return None
    return f"model.offload_blocks={count}: this transformer has {held} blocks; set it to at most {held}"


def _transformer_folder(path: str) -> Path | None:
    if path in POCKETS:
        return POCKET_FOLDER / (TEXT_TO_IMAGE_PART if path == POCKET_TEXT_TO_IMAGE else "transformer")
    folder = Path(path).expanduser() / "transformer"
    return folder if (folder / "config.json").is_file() else None


def _read_config(transformer: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((transformer / "config.json").read_text("utf-8"))
    return content


def lora_problems(config: RunSettings) -> list[str]:
    """What keeps run.init_lora from being continued, a line each: no LoRA, another rank, another layout."""
    if config.run.init_lora is None:
        return []
    try:
        lora = read_lora(Path(config.run.init_lora).expanduser(), with_weights=False)
        layout = config.model.layout or own_layout(config.model.path, config.model.transformer_file)
        if layout is not None:
            check_layout(lora.layout, layout, str(lora.path))
    except (FileNotFoundError, ValueError) as error:
        return [f"run.init_lora: {error}"]
    if lora.rank != config.lora.rank:
        return [
            f"run.init_lora: {lora.path} has rank {lora.rank}, the settings say {config.lora.rank}: "
            f"set lora.rank={lora.rank}"
        ]
    return []


def own_layout(path: str, transformer_file: str | None = None) -> str | None:
    """The reference's layout that belongs to a pipeline's class; None where that is not known before a download."""
    file = None if transformer_file is None else Path(transformer_file).expanduser()
    if path in POCKETS:
        return open_pipeline(path, transformer_file=file).layout
    folder = Path(path).expanduser()
    if not folder.is_dir() or pipeline_problems(folder, needs_transformer=file is None):
        return None
    return open_pipeline(path, transformer_file=file).layout


def tracker_problems(tracker: str | None) -> list[str]:
    """Whether run.tracker is unknown, or its package missing; a line each."""
    if tracker is None:
        return []
    if tracker not in TRACKER_PACKAGES:
        near = difflib.get_close_matches(tracker, TRACKER_PACKAGES, n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        return [f"run.tracker must be one of {', '.join(TRACKER_PACKAGES)}, got {tracker!r}{hint}"]
    if any(find_spec(package) for package in TRACKER_PACKAGES[tracker]):
        return []
    return [
        f"run.tracker={tracker} needs its package: pip install {TRACKER_PACKAGES[tracker][0]}, "
        "or set run.tracker=null (metrics.jsonl is always written)"
    ]


def _count_problems(config: TrainConfig, data: RunData) -> list[str]:
    pairs, groups = len(data.train.pairs), config.grpo.groups_per_update
    if pairs >= groups:
        return []
    return [
        f"grpo.groups_per_update: {groups} different (reference, prompt) pairs are needed in an update, "
        f"{config.data.source} has {pairs} to train on; set it to at most {pairs} or add captions"
    ]


def _known_size_px(config: ModelConfig) -> int | None:
    if config.image_size_px is not None:
        return config.image_size_px
    return POCKET_SIZE_PX if config.path in POCKETS else None
