"""What a run needs before its first update: the process, the model with its LoRA, encoded data, the reward."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from ..config import TrainConfig
from ..evaluation.heldout import heldout_jobs
from ..evaluation.sample_sheet import sheet_pairs
from ..flow.noise import keyed_seed
from ..models.features.base import load_backbone
from ..models.flux import FluxAdapter
from ..models.lora import REFERENCE, add_lora, freeze_reference, load_lora_state, target_modules
from ..models.lora_apply import check_architecture, continue_from
from ..models.lora_file import check_layout, read_lora
from .checkpoint import TrainState
from .data import DataProblems, Reference, RunData, open_data
from .encoded_pairs import EncodedPairs, pairs_of_run
from .policy import Policy
from .rewarding import Rewarder, RewardFunction
from .run_folder import RunSettings

logger = logging.getLogger("divrl")


def start_accelerator(config: RunSettings, output: Path) -> Accelerator:
    """The process, its device and precision. Raises ValueError for what cannot be had here."""
    run = config.run
    try:
        accelerator = Accelerator(
            mixed_precision=run.mixed_precision, log_with=run.tracker, project_dir=str(output)
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise ValueError(
            "run.mixed_precision differs from an earlier run in this process, and accelerate fixes it once: "
            "start this run in a process of its own"
        ) from error
    if accelerator.num_processes > 1:
        raise ValueError(
            f"a run is one process as yet, got {accelerator.num_processes}: each would open the run folder and write "
            "its log (several are planned); start one process, without accelerate launch or torchrun"
        )
    return accelerator


def set_threads(config: RunSettings, state: TrainState | None) -> int:
    """Use the threads the settings ask for, else those the run began with; the number is what is in use now."""
    wanted = config.run.threads or (state.threads if state else None)
    if wanted is not None and wanted != torch.get_num_threads():
        logger.info("CPU threads: %d (results depend on the number)", wanted)
        torch.set_num_threads(wanted)
    return torch.get_num_threads()


def open_run_data(config: TrainConfig, adapter: FluxAdapter) -> RunData:
    """The references of the run, checked at the size they are trained at."""
    return open_data(config.data, seed=config.run.seed, size_px=size_of(config, adapter))


def size_of(config: RunSettings, adapter: FluxAdapter) -> int:
    """Side of the pictures in pixels: the settings', else the model's own."""
    return config.model.image_size_px or adapter.default_image_size_px


def open_adapter(config: RunSettings, accelerator: Accelerator) -> FluxAdapter:
    """The pipeline; its parts are read when they are first needed."""
    model = config.model
    return FluxAdapter.load(
        model.path,
        dtype=model.dtype,
        device=accelerator.device,
        revision=model.revision,
        layout=model.layout,
        max_text_tokens=model.max_text_tokens,
    )


def encode_run(
    config: TrainConfig, adapter: FluxAdapter, rewarder: Rewarder, data: RunData, *, is_quiet: bool
) -> EncodedPairs:
    """Everything the run will show the model, encoded; the text encoders are freed.

    Raises one ValueError naming every reference whose object is too small for the reward.
    """
    run = config.run
    trained = pairs_of_run(
        data.train.pairs,
        groups_per_update=config.grpo.groups_per_update,
        updates=run.updates,
        seed=run.seed,
    )
    held_out = [
        *(job.pair for job in heldout_jobs(data.held_out.pairs, run.eval_images, seed=run.seed)),
        *sheet_pairs(data.held_out.pairs, run.sample_references),
    ]
    encoded = EncodedPairs(adapter, size_of(config, adapter))
    problems: list[str] = []

    def prepare(reference_id: str, reference: Reference) -> None:
        try:
            rewarder.prepare(reference_id, reference)
        except ValueError as error:
            problems.append(str(error))

    for references, pairs in ((data.train, trained), (data.held_out, held_out)):
        encoded.encode(references, pairs, also=prepare, is_quiet=is_quiet)
    if problems:
        raise DataProblems(problems)
    encoded.finish()
    return encoded


def make_rewarder(config: TrainConfig, adapter: FluxAdapter, function: RewardFunction | None) -> Rewarder:
    """The reward with its backbone, on the model's device."""
    backbone = load_backbone(config.reward.backbone, device=adapter.device)
    return Rewarder(config.reward, backbone, size_px=size_of(config, adapter), function=function)


def make_policy(
    config: TrainConfig, adapter: FluxAdapter, accelerator: Accelerator, state: TrainState | None
) -> Policy:
    """The transformer with its LoRA: fresh from the seed, from run.init_lora, or as `state` left it."""
    transformer = adapter.transformer
    add_run_lora(config, adapter, state)
    if holds_on_to_start(config):
        freeze_reference(transformer)
        if state is not None:
            load_lora_state(transformer, state.kl_reference, adapter=REFERENCE)
    if state is not None:
        load_lora_state(transformer, state.parameters)
    if config.model.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    return Policy(
        adapter=adapter,
        size_px=size_of(config, adapter),
        guidance=config.model.guidance_scale,
        autocast=accelerator.autocast,
        kl_reference=config.grpo.kl_reference,
    )


def add_run_lora(config: RunSettings, adapter: FluxAdapter, state: TrainState | None) -> None:
    """Put the trained LoRA into the transformer: fresh from the seed, or from run.init_lora where the run begins."""
    lora, transformer = config.lora, adapter.transformer
    seed = keyed_seed(seed=config.run.seed, stream="lora start")
    add_lora(transformer, lora.rank, lora.resolved_alpha, lora.targets, seed)
    if state is None and config.run.init_lora is not None:
        start = read_lora(Path(config.run.init_lora).expanduser())
        check_layout(start.layout, adapter.layout, f"run.init_lora: {start.path}")
        continue_from(transformer, start)


def check_start(config: RunSettings, layout: str, transformer: nn.Module) -> None:
    """Raise ValueError when run.init_lora does not fit the run; `transformer` may be one on the meta device."""
    if config.run.init_lora is None:
        return
    start = read_lora(Path(config.run.init_lora).expanduser(), with_weights=False)
    check_layout(start.layout, layout, f"run.init_lora: {start.path}")
    check_architecture(transformer, start)
    missing = set(start.modules) - set(target_modules(transformer, config.lora.targets))
    if missing:
        raise ValueError(
            f"run.init_lora: {start.path} changes {min(missing)}, which the settings do not train; choose wider "
            "lora.targets"
        )


def holds_on_to_start(config: TrainConfig) -> bool:
    """Whether KL needs a frozen copy of the LoRA that the run starts from."""
    return config.grpo.kl_weight > 0 and config.grpo.kl_reference == "init"
