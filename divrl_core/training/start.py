"""What a run needs before its first update: the process, the model with its LoRA, encoded data, the reward."""

from __future__ import annotations

import logging
import os
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import nn

from ..config import TrainConfig
from ..evaluation.heldout import heldout_jobs
from ..evaluation.sample_sheet import sheet_pairs
from ..flow.noise import keyed_seed
from ..models.base_options import offload_problem
from ..models.flux import FluxAdapter
from ..models.lora import OLD, REFERENCE, add_lora, freeze_reference, load_lora_state, target_modules
from ..models.lora_apply import check_architecture, continue_from
from ..models.lora_file import check_layout, read_lora
from .checkpoint import TrainState
from .data import DataProblems, Reference, RunData, open_data
from .encoded_pairs import EncodedPairs, pairs_of_run
from .model_masks import make_masks
from .own_reward import RewardFunction
from .policy import Policy
from .processes import Processes
from .rewarding import Rewarder, open_rewarder
from .run_folder import RunSettings

logger = logging.getLogger("divrl")

WAIT_MINUTES = 60  # for the slowest process: one may write sheets or read a model while the others wait


def start_processes(config: RunSettings, output: Path) -> Processes:
    """This process among those of the run, its device and precision. Raises ValueError for what cannot be had here."""
    run = config.run
    return join_processes(output, mixed_precision=run.mixed_precision, tracker=run.tracker)


def join_processes(
    folder: Path,
    *,
    mixed_precision: str = "no",
    tracker: str | None = None,
    device: torch.device | str | None = None,
) -> Processes:
    """This process among those that were started together. Raises ValueError for what cannot be had here.

    device: where a process that is alone works; several have a card each, unless it is the CPU. None = a GPU, if there
    is one.
    """
    wanted = None if device is None else torch.device(device)
    on_cpu = not _has_accelerator() or (wanted is not None and wanted.type == "cpu")
    try:
        accelerator = Accelerator(
            cpu=on_cpu,  # or accelerate takes several processes on CPUs for one each
            mixed_precision=mixed_precision,
            log_with=tracker,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=WAIT_MINUTES))],
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise ValueError(
            "run.mixed_precision differs from an earlier run in this process, and accelerate fixes it once: "
            "start this run in a process of its own"
        ) from error
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started, but accelerate knows {accelerator.num_processes}: start them by "
            "divrl-train --processes, accelerate launch or torchrun"
        )
    processes = Processes(accelerator)
    if wanted is not None and processes.count == 1:
        processes.device = wanted
    return processes


def _has_accelerator() -> bool:
    """Whether a GPU of any maker is to be used."""
    wants_cpu = os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("1", "true", "yes")
    return not wants_cpu and torch.accelerator.is_available()


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


def open_adapter(config: RunSettings, device: torch.device, *, is_sharded: bool = False) -> FluxAdapter:
    """The pipeline; its parts are read when they are first needed. Raises ValueError for options that need another."""
    model = config.model
    problem = offload_problem(model.offload_blocks, gradient_checkpointing=model.gradient_checkpointing)
    if problem is not None:
        raise ValueError(problem)
    return FluxAdapter.load(
        model.path,
        dtype=model.dtype,
        device=device,
        revision=model.revision,
        layout=model.layout,
        max_text_tokens=model.max_text_tokens,
        transformer_file=model.transformer_file,
        quantization=model.quantization,
        offload_blocks=model.offload_blocks,
        compile=model.compile,
        vae_tiling=model.vae_tiling,
        is_sharded=is_sharded,
    )


def cache_folder(config: RunSettings, folder: Path) -> Path:
    """Where encoded pictures and captions lie: run.cache, else cache/ in the run's folder."""
    return Path(config.run.cache).expanduser() if config.run.cache else folder / "cache"


def encode_run(
    config: TrainConfig,
    adapter: FluxAdapter,
    rewarder: Rewarder,
    data: RunData,
    processes: Processes,
    folder: Path,
) -> EncodedPairs:
    """Everything the run will show the model, encoded into the cache; the text encoders are freed.

    Masks that a segmentation model is to make come first, and that model is freed too. Raises one ValueError naming
    every reference whose object was not found, and one naming those whose object is too small for the reward.
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
    size_px, cache = size_of(config, adapter), cache_folder(config, folder)
    shown = ((data.train, trained), (data.held_out, held_out))
    wanted = [(references, [pair.reference_id for pair in pairs]) for references, pairs in shown]
    make_masks(wanted, cache, processes, size_px=size_px)
    encoded = EncodedPairs(adapter, size_px, folder=cache, processes=processes)
    problems: list[str] = []

    def prepare(reference_id: str, reference: Reference) -> None:
        try:
            rewarder.prepare(reference_id, reference)
        except ValueError as error:
            problems.append(str(error))

    for references, pairs in shown:
        encoded.encode(references, pairs, also=prepare, is_quiet=not processes.is_main)
    problems = list(dict.fromkeys(processes.gather(problems)))
    if problems:
        raise DataProblems(problems)
    encoded.finish()
    return encoded


def make_rewarder(config: TrainConfig, adapter: FluxAdapter, function: RewardFunction | None) -> Rewarder:
    """The reward with its backbone, on reward.device; `function` stands in place of the one the settings name."""
    return open_rewarder(
        config.reward,
        size_px=size_of(config, adapter),
        model_device=adapter.device,
        function=function,
        novelty_scale=config.grpo.diversity_scale if config.grpo.diversity_weight else None,
    )


def make_policy(
    config: TrainConfig, adapter: FluxAdapter, processes: Processes, state: TrainState | None
) -> Policy:
    """The transformer with its LoRA: fresh from the seed, from run.init_lora, or as `state` left it."""
    transformer = adapter.transformer
    add_run_lora(config, adapter, state)
    for name in frozen_copies(config):
        freeze_reference(transformer, adapter=name)
        if state is not None:
            load_lora_state(transformer, state.old if name == OLD else state.kl_reference, adapter=name)
    if state is not None:
        load_lora_state(transformer, state.parameters)
    if config.model.gradient_checkpointing:
        adapter.enable_gradient_checkpointing()
    return Policy(
        adapter=adapter,
        size_px=size_of(config, adapter),
        guidance=config.model.guidance_scale,
        autocast=processes.autocast,
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


def frozen_copies(config: TrainConfig) -> tuple[str, ...]:
    """Names of the adapters that stand beside the trained one, each a copy of the start."""
    kl = (REFERENCE,) if config.holds_on_to_start else ()
    return (*kl, OLD) if config.has_old_policy else kl
