"""The training loop of masked conditional flow matching (arXiv:2511.08061), one page of named steps."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..config_cfm import CfmConfig
from ..evaluation.loss_curve import write_loss_curve
from ..models.fingerprint import component_fingerprint
from ..models.flux import FluxAdapter
from ..models.layout import NO_REFERENCE
from ..models.lora import load_lora_state, lora_parameters
from ..models.lora_size import lora_size, transformer_on_meta
from ..rl.ema import ema_update_
from .cfm_batches import BatchPlan, SizedPair, sized_pairs
from .cfm_preflight import lora_line
from .cfm_publish import CfmDue, CfmPublisher
from .cfm_step import NO_CAPTION, draw_batch, flow_loss
from .checkpoint import TrainState, load_optimizer_tensors
from .latent_cache import LatentCache
from .metrics_log import MetricsLog
from .optimizer import learning_rate, make_optimizer
from .pair_data import CfmData, data_digest, open_pairs
from .run_folder import RunFolder
from .run_under_way import RunUnderWay, TrainResult
from .start import add_run_lora, check_start, open_adapter, set_threads, size_of, start_accelerator

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
    accelerator = start_accelerator(config, folder.path)
    state = folder.open(config, resume=resume)
    threads = set_threads(config, state)
    log = folder.open_log(state)
    data = data or open_pairs(config.data, seed=config.run.seed)

    run = _Run(config, folder, accelerator, data, log, threads, is_resumed=state is not None)
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
        accelerator: Accelerator,
        data: CfmData,
        log: MetricsLog,
        threads: int,
        *,
        is_resumed: bool,
    ) -> None:
        super().__init__(config, folder, accelerator, log, threads)
        self.config, self.data = config, data
        self.adapter: FluxAdapter = open_adapter(config, accelerator)
        side = size_of(config, self.adapter)
        self.train = sized_pairs(data.train, side, aspect_buckets=config.data.aspect_buckets)
        self.held_out = sized_pairs(data.held_out, side, aspect_buckets=config.data.aspect_buckets)
        self.plan = BatchPlan(self.train, config.objective.batch_size, config.run.seed)
        cache = Path(config.run.cache).expanduser() if config.run.cache else folder.path / "cache"
        self.cache = LatentCache(cache, self.adapter)
        parts = component_fingerprint(self.adapter.folder, "transformer", "scheduler")
        self.data_digest = data_digest(data, parts, *self.cache.encoders)
        meta = transformer_on_meta(self.adapter.folder.part("transformer"))
        size = lora_size(meta, config.lora.targets, config.lora.rank)
        logger.info("%s", lora_line(config, size))
        if not is_resumed:
            check_start(config, self.adapter.layout, meta)

    def encode(self) -> None:
        """Encode what the cache lacks, then free the encoders."""
        is_quiet = not self.accelerator.is_main_process
        made = 0
        for source, pairs in ((self.data.train, self._trained_pairs()), (self.data.held_out, self.held_out)):
            panels = [item.target for item in pairs]
            if self.adapter.layout != NO_REFERENCE:
                panels += [item.reference for item in pairs]
            captions = [caption for item in pairs for caption in item.pair.captions]
            made += self.cache.encode(
                source, panels, [NO_CAPTION, *captions], is_quiet=is_quiet, on_progress=self.guard.check
            )
        self.adapter.drop_encoders()
        self.adapter.drop_vae()
        sizes = ", ".join(f"{width}x{height}: {count}" for (height, width), count in self.plan.sizes.items())
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
        self.parameters = lora_parameters(adapter.transformer)
        self.optimizer = make_optimizer(config.optim, list(self.parameters.values()), config.lr)
        if state is not None:
            load_lora_state(adapter.transformer, state.parameters)
            load_optimizer_tensors(self.optimizer, self.parameters, state.optimizer)
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
            autocast=self.accelerator.autocast,
            on_progress=self.show,
        )
        self.start_from(state)

    def make_update(self) -> None:
        """One step of the optimizer, from `accumulation` micro-batches."""
        config, objective, started = self.config, self.config.objective, time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.optim, self.update, config.lr)
        total, seen = 0.0, 0
        for part in range(objective.accumulation):
            number = self.update * objective.accumulation + part
            batch = draw_batch(
                self.plan.micro_batch(number),
                number,
                source=self.data.train,
                cache=self.cache,
                adapter=self.adapter,
                config=objective,
                seed=config.run.seed,
            )
            loss = flow_loss(
                self.adapter, batch, guidance=config.model.guidance_scale, autocast=self.accelerator.autocast
            )
            if not bool(torch.isfinite(loss)):
                raise ValueError(
                    f"update {self.update + 1}: the loss of {', '.join(batch.names)} is not finite; try a smaller "
                    "optim.lr or model.dtype=float32"
                )
            # A micro-batch counts by its pairs: the last one of a panel size may hold fewer.
            share = len(batch.names) / (objective.batch_size * objective.accumulation)
            self.accelerator.backward(loss * share)
            total, seen = total + loss.item() * len(batch.names), seen + len(batch.names)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), config.optim.max_grad_norm).item()
        if not math.isfinite(norm):
            raise ValueError(f"update {self.update + 1}: the gradient is not finite; try a smaller optim.lr")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        ema_update_(self.average, self.parameters, config.optim.ema_decay)
        self.update, self.is_published = self.update + 1, False
        self.record(self._train_row(total / seen, norm, time.perf_counter() - started))
        self.progress.update(1)
        self.show(f"loss {total / seen:.4f}")

    def publish(self) -> None:
        """Write what is due at this update, then the checkpoint; nothing when it was written before."""
        if self.is_published or not CfmDue.at(self.update, self.config.run).anything:
            return
        self.best, row = self.publisher.publish(self.update, self.average, self.best)
        if row is not None:
            self.record(row)
            write_loss_curve(self.folder.path, self.log.rows)
        self.is_published = True
        self.adapter.drop_vae()
        self.save()
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
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "epoch": self.update * self.config.objective.accumulation / self.plan.epoch_length,
            "seconds": round(seconds, 4),
        }
