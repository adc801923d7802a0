"""What the runs of every method do alike: progress, log, checkpoints, and stopping where nothing is half done."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from ..config import to_mapping
from .checkpoint import Best, Tensors, TrainState, save_checkpoint
from .interrupt import InterruptGuard, StopRequested
from .metrics_log import MetricsLog, flat_numbers
from .processes import Processes, as_lost_process
from .run_folder import RunFolder, RunSettings
from .stepper import Stepper

logger = logging.getLogger("divrl")

ECHO_S = (
    2.0  # in which a second signal is the first one again, handed on by the process that started this one
)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Where a finished run lies and which of its LoRA files is the best by held-out measures."""

    output: Path
    updates: int
    best: Best | None
    best_lora: Path
    last_lora: Path


class RunUnderWay(ABC):
    """A run: how far it is, what it logs, how it stops. A method adds how an update is made and what is published."""

    stepper: Stepper
    parameters: Mapping[str, nn.Parameter]
    average: Tensors

    def __init__(
        self,
        settings: RunSettings,
        folder: RunFolder,
        processes: Processes,
        log: MetricsLog,
        threads: int,
    ) -> None:
        self.settings, self.folder, self.processes = settings, folder, processes
        self.log, self.threads = log, threads
        self.update, self.is_published = 0, False
        self.best: Best | None = None
        self.guard = InterruptGuard()
        self.progress: tqdm[Any] = tqdm(disable=True)

    @abstractmethod
    def make_update(self) -> None:
        """One update, which counts `update` on."""

    @abstractmethod
    def publish(self) -> None:
        """Write what is due at this update, then the checkpoint; nothing when it was written before."""

    def kept_beside(self) -> dict[str, Any]:
        """What a checkpoint of this method holds beside weights, average and optimizer: fields of `TrainState`."""
        return {}

    def start_from(self, state: TrainState | None) -> None:
        """Take over how far a checkpoint is, and show the progress from there; open the tracker, if there is one."""
        if state is not None:
            self.update, self.is_published, self.best = state.update, state.is_published, state.best
        run = self.settings.run
        self.progress = tqdm(
            total=run.updates,
            initial=self.update,
            desc=self.settings.stage,
            unit="update",
            disable=not self.processes.is_main,
        )
        if run.tracker is not None and self.processes.is_main:
            flat = {key: str(value) for key, value in to_mapping(self.settings).items()}
            self.processes.accelerator.init_trackers("divrl", config=flat)

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Inside this block a signal stops the run at the next safe place, saved."""
        with InterruptGuard(echo_s=ECHO_S if self.processes.count > 1 else 0.0) as self.guard:
            try:
                yield
            except StopRequested:
                self.save()
                self.processes.wait()
                if self.processes.is_main:
                    logger.warning("stopped after update %d; saved in %s", self.update, self.folder.path)
                raise
            except RuntimeError as error:
                lost = as_lost_process(error) if self.processes.count > 1 else None
                if lost is None:
                    raise
                raise lost from error

    def until_done(self) -> None:
        """Publish, update, publish, to the last update."""
        with self.progress:
            self.publish()
            while self.update < self.settings.run.updates:
                self.stop_if_asked()
                self.make_update()
                self.publish()

    def stop_if_asked(self) -> None:
        """Stop here if any process was asked to; all of them come here, so that none waits for one that has left."""
        if self.processes.any(self.guard.is_asked):
            raise StopRequested

    def save(self) -> None:
        """Write the checkpoint of the last complete update; before there is an optimizer there is nothing to save."""
        if not hasattr(self, "stepper"):
            return
        optimizer = self.stepper.tensors()
        if not self.processes.is_main:
            return
        fields: dict[str, Any] = {"kl_reference": {}, **self.kept_beside()}
        state = TrainState(
            update=self.update,
            is_published=self.is_published,
            parameters={name: value.detach() for name, value in self.parameters.items()},
            average=self.average,
            optimizer=optimizer,
            best=self.best,
            settings=to_mapping(self.settings),
            threads=self.threads,
            **fields,
        )
        save_checkpoint(self.folder.checkpoints, state)

    def finish(self, measure: str) -> TrainResult:
        """Close the tracker, if there is one, and say where the result lies."""
        self.processes.accelerator.end_training()
        best = f", best by {measure}: update {self.best.update}" if self.best else ""
        if self.processes.is_main:
            logger.info("done: %d updates in %s%s", self.update, self.folder.path, best)
        return TrainResult(
            output=self.folder.path,
            updates=self.update,
            best=self.best,
            best_lora=self.folder.best_lora,
            last_lora=self.folder.last_lora,
        )

    def show(self, phase: str, is_halfway: bool = False) -> None:
        """Show what is being done, and stop here if asked to, unless something is half done.

        One process among several stops with the others, at the next `stop_if_asked`.
        """
        self.progress.set_postfix_str(phase)
        if not is_halfway and self.processes.count == 1:
            self.guard.check()

    def record(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl and to the tracker."""
        if self.processes.is_main:
            self.log.append(row)
            self.processes.accelerator.log(flat_numbers(row, f"{row['kind']}/"), step=row["update"])
