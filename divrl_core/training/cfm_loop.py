"""The training loop of masked conditional flow matching (arXiv:2511.08061), one page of named steps."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config_cfm import CfmConfig
from ..evaluation.loss_curve import write_loss_curve
from ..models.fingerprint import component_fingerprint
from ..models.flux import FluxAdapter
from ..models.layout import NO_REFERENCE
from ..models.lora import load_lora_state, lora_parameters
from ..models.lora_numbers import lora_numbers
from ..models.traced_model import config_key, transformer_on_meta
from ..models.transformer_load import transformer_config
from ..rl.ema import ema_update_
from .cfm_batches import BatchPart, BatchPlan, SizedPair, sized_pairs
from .cfm_publish import CfmDue, CfmPublisher
from .cfm_step import NO_CAPTION, draw_batch, flow_loss
from .checkpoint import TrainState
from .latent_cache import LatentCache
from .metrics_log import MetricsLog
from .optimizer import learning_rate
from .pair_data import CfmData, data_digest, open_pairs
from .processes import Processes
from .run_folder import RunFolder
from .run_under_way import RunUnderWay, TrainResult
from .start import (
    add_run_lora,
    cache_folder,
    check_start,
    open_adapter,
    set_threads,
    size_of,
    start_processes,
)
from .stepper import make_stepper

logger = logging.getLogger("divrl")


def train_cfm(
    config: CfmConfig, output: Path | str, *, resume: bool = False, data: CfmData | None = None
) -> TrainResult:
    """Train a LoRA that takes its subject from a reference, into a run folder.

    Args:
        config: the settings; with `resume` those the run began with (only run.updates may grow).
        output: the run folder: new or empty, or with `resume` one that holds a run.
        resume: go on from the last checkpoint. On the CPU with the same number of threads the run is then equal, bit
            for bit, to one that was never stopped.
        data: the pairs, if they are open already; else as config.data says.

    Raises:
        ValueError, FileNotFoundError, ImportError: settings, data, model, package or output that cannot be used; a
            loss or gradient that is not finite.
        KeyboardInterrupt: on SIGINT or SIGTERM, after the update was finished and the checkpoint saved.
    """
    folder = RunFolder(Path(output))
    processes = start_processes(config, folder.path)
    state = folder.open_together(config, processes, resume=resume)
    threads = set_threads(config, state)
    log = folder.open_log(state) if processes.is_main else folder.unread_log()
    data = data or open_pairs(config.data, seed=config.run.seed)

    run = _Run(config, folder, processes, data, log, threads, is_resumed=state is not None)
    if state is not None and state.data != run.data_digest:
        raise ValueError(
            f"--resume: the pairs or the model's files have changed since {folder.path} was begun; put them back, "
            "or start a new run in another --output folder (from this one's LoRA, with --init-lora)"
        )
    with run.stoppable():
        # Pictures and captions are encoded once, before the transformer is read; then the encoders leave.
        run.encode()
        run.start(state)
        state = None  # its tensors are the run's now: no second copy is kept
        run.until_done()
    return run.finish("validation loss")


class _Run(RunUnderWay):
    """A run of cfm: what it is made of, and the steps of one update."""

    publisher: CfmPublisher

    def __init__(
        self,
        config: CfmConfig,
        folder: RunFolder,
        processes: Processes,
        data: CfmData,
        log: MetricsLog,
        threads: int,
        *,
        is_resumed: bool,
    ) -> None:
        super().__init__(config, folder, processes, log, threads)
        self.config, self.data = config, data
        self.adapter: FluxAdapter = open_adapter(config, processes.device, is_sharded=processes.in_lockstep)
        side = size_of(config, self.adapter)
        self.train = sized_pairs(data.train, side, aspect_buckets=config.data.aspect_buckets)
        self.held_out = sized_pairs(data.held_out, side, aspect_buckets=config.data.aspect_buckets)
        self.plan = BatchPlan(self.train, config.objective.batch_size, config.run.seed)
        self.cache = LatentCache(cache_folder(config, folder.path), self.adapter)
        parts = component_fingerprint(self.adapter.folder, "transformer", "scheduler")
        self.data_digest = data_digest(data, parts, *self.cache.encoders)
        shape = config_key(transformer_config(self.adapter.folder))
        numbers = lora_numbers(shape, config.lora.targets, config.lora.rank)
        if processes.is_main:
            logger.info(
                "LoRA: %d linear layers, rank %d: %.1f M parameters",
                len(numbers) // 2, config.lora.rank, sum(numbers) / 1e6,
            )  # fmt: skip
        if not is_resumed:
            check_start(config, self.adapter.layout, transformer_on_meta(shape, self.adapter.dtype))

    def encode(self) -> None:
        """Encode what the cache lacks, each process of a machine its share, then free the encoders."""
        processes, made = self.processes, 0
        for source, pairs in ((self.data.train, self._trained_pairs()), (self.data.held_out, self.held_out)):
            panels = [item.target for item in pairs]
            if self.adapter.layout != NO_REFERENCE:
                panels += [item.reference for item in pairs]
            captions = [caption for item in pairs for caption in item.pair.captions]
            made += self.cache.encode(
                source,
                panels,
                [NO_CAPTION, *captions],
                is_quiet=not processes.is_main,
                on_progress=self.guard.check if processes.count == 1 else lambda: None,
                part=(processes.local_index, processes.local_count),
            )
        processes.wait()
        self.adapter.drop_encoders()
        self.adapter.drop_vae()
        sizes = ", ".join(f"{width}x{height}: {count}" for (height, width), count in self.plan.sizes.items())
        if not processes.is_main:
            return
        logger.info(
            "%d pairs to train on (panels %s), %d to validate on; %d latents and captions encoded, encoders freed",
            len(self.train), sizes, len(self.held_out), made,
        )  # fmt: skip

    def start(self, state: TrainState | None) -> None:
        """The LoRA, its optimizer and its average, fresh or as the checkpoint left them."""
        config, adapter = self.config, self.adapter
        add_run_lora(config, adapter, state)
        if config.model.gradient_checkpointing:
            adapter.enable_gradient_checkpointing()
        self.processes.shard(adapter.transformer)
        self.parameters = lora_parameters(adapter.transformer)
        if state is not None:
            load_lora_state(adapter.transformer, state.parameters)
        self.stepper = make_stepper(config.optim, self.parameters, self.processes, config.lr)
        if state is not None:
            self.stepper.load(state.optimizer)
        device = adapter.device
        held = self.parameters if state is None else state.average
        self.average = {name: value.detach().to(device, copy=True) for name, value in held.items()}
        self.publisher = CfmPublisher(
            config=config,
            folder=self.folder,
            adapter=adapter,
            cache=self.cache,
            held_out=self.data.held_out,
            sized=self.held_out,
            processes=self.processes,
            autocast=self.processes.autocast,
            on_progress=self.show,
        )
        self.start_from(state)

    def make_update(self) -> None:
        """One step of the optimizer, from `accumulation` micro-batches, which the processes share."""
        config, processes, started = self.config, self.processes, time.perf_counter()
        self.stepper.lr = learning_rate(config.optim, self.update, config.lr)
        sums = torch.zeros(2, dtype=torch.float64)  # of losses, and how many pairs
        with self.stepper.accumulating():
            for part, is_stand_in in self._parts():
                sums += self._learn_from(part, is_stand_in)
        total, seen = processes.sum(sums).tolist()
        norm = self.stepper.step()
        if not math.isfinite(norm):
            raise ValueError(f"update {self.update + 1}: the gradient is not finite; try a smaller optim.lr")
        self.stepper.zero_grad()
        ema_update_(self.average, self.parameters, config.optim.ema_decay)
        self.update, self.is_published = self.update + 1, False
        self.record(self._train_row(total / seen, norm, time.perf_counter() - started))
        self.progress.update(1)
        self.show(f"loss {total / seen:.4f}")

    def _learn_from(self, part: BatchPart, is_stand_in: bool) -> Tensor:
        """Add the gradient of some pairs; the sum of their losses, and how many count."""
        config = self.config
        batch = draw_batch(
            part,
            source=self.data.train,
            cache=self.cache,
            adapter=self.adapter,
            config=config.objective,
            seed=config.run.seed,
        )
        loss = flow_loss(
            self.adapter, batch, guidance=config.model.guidance_scale, autocast=self.processes.autocast
        )
        if not bool(torch.isfinite(loss)):
            raise ValueError(
                f"update {self.update + 1}: the loss of {', '.join(batch.names)} is not finite; try a smaller "
                "optim.lr or model.dtype=float32"
            )
        # A micro-batch counts by its pairs: the last one of a panel size may hold fewer.
        count = 0 if is_stand_in else len(batch.names)
        share = count / (config.objective.batch_size * config.objective.accumulation)
        self.stepper.backward(loss * share)
        return torch.tensor([loss.item() * count, count], dtype=torch.float64)

    def _parts(self) -> list[tuple[BatchPart, bool]]:
        """What this process learns from in the update that comes, each with whether it only stands in."""
        processes, accumulation = self.processes, self.config.objective.accumulation
        of_all = [
            self.plan.parts_of_process(self.update, accumulation, index, processes.count)
            for index in range(processes.count)
        ]
        mine = [(part, False) for part in of_all[processes.index]]
        if processes.in_lockstep:
            stand_in = next(part for parts in of_all for part in parts)
            mine += [(stand_in, True)] * (max(map(len, of_all)) - len(mine))
        return mine

    def publish(self) -> None:
        """Write what is due at this update, then the checkpoint; nothing when it was written before."""
        if self.is_published or not CfmDue.at(self.update, self.config.run).anything:
            return
        self.best, row = self.publisher.publish(self.update, self.average, self.best)
        if row is not None:
            self.record(row)
        if row is not None and self.processes.is_main:
            write_loss_curve(self.folder.path, self.log.rows)
        self.processes.wait()
        self.is_published = True
        self.adapter.drop_vae()
        self.save()
        if self.processes.is_main:
            self.folder.prune_loras(keep_last=self.config.run.keep_last, best=self.best)

    def kept_beside(self) -> dict[str, Any]:
        """What was learned from, so that a run is not resumed on other pairs or another model."""
        return {"data": self.data_digest}

    def _trained_pairs(self) -> list[SizedPair]:
        """The pairs that the run will meet: all of them, or those of its first micro-batches."""
        count = self.config.run.updates * self.config.objective.accumulation
        if count >= self.plan.epoch_length:
            return list(self.train)
        return [item for number in range(count) for item in self.plan.micro_batch(number)]

    def _train_row(self, loss: float, grad_norm: float, seconds: float) -> dict[str, Any]:
        return {
            "kind": "train",
            "stage": "cfm",
            "update": self.update,
            "loss": loss,
            "grad_norm": grad_norm,
            "lr": self.stepper.lr,
            "epoch": self.update * self.config.objective.accumulation / self.plan.epoch_length,
            "seconds": round(seconds, 4),
        }
