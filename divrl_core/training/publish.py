"""What a run shows of itself every so often: held-out measures, a contact sheet, LoRA files; all of the average."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import RunConfig, TrainConfig
from ..evaluation.heldout import evaluate
from ..evaluation.heldout_summary import selection_score
from ..evaluation.sample_sheet import write_sample_sheet
from .checkpoint import Best, Tensors
from .data import RunData
from .encoded_pairs import EncodedPairs
from .files import copy_atomic, write_atomic_json
from .policy import Policy
from .processes import Processes
from .rewarding import Rewarder
from .run_folder import RunFolder

logger = logging.getLogger("divrl")

LEAST_SCORE = -1e9  # of an update whose held-out measure is undefined: any defined one beats it


@dataclass(frozen=True)
class Due:
    """What is to be written at an update: the first and the last update, and every so many."""

    heldout: bool
    sheet: bool
    lora: bool

    @classmethod
    def at(cls, update: int, run: RunConfig) -> Due:
        is_last = update == run.updates
        heldout = is_last or update % run.eval_every_updates == 0
        sheet = is_last or update % run.sample_every_updates == 0
        saved = is_last or update % run.save_every_updates == 0
        return cls(heldout=heldout, sheet=sheet, lora=update > 0 and (saved or heldout))

    @property
    def anything(self) -> bool:
        return self.heldout or self.sheet or self.lora


@dataclass(frozen=True, kw_only=True)
class Publisher:
    """Writes what is due; knows nothing of how the weights came about.

    Of several processes all make pictures, and the main one alone writes.
    """

    config: TrainConfig
    folder: RunFolder
    policy: Policy
    encoded: EncodedPairs
    rewarder: Rewarder
    data: RunData
    processes: Processes
    on_progress: Callable[[str], None]

    def publish(
        self, update: int, average: Tensors, best: Best | None
    ) -> tuple[Best | None, dict[str, Any] | None]:
        """Write what is due at `update`. Returns the best so far, and the row of held-out measures if made."""
        due, row = Due.at(update, self.config.run), None
        if due.lora and self.processes.is_main:
            numbered = self.folder.write_lora(
                self.folder.numbered_lora(update), average, self.config, layout=self.policy.adapter.layout
            )
            copy_atomic(numbered, self.folder.last_lora)
        with self.policy.with_weights(average):
            if due.heldout:
                row = self._heldout(update)
            if due.sheet:
                self._sheet(update)
        if row is not None and update > 0:
            best = self._best(update, row, best)
        return best, row

    def _heldout(self, update: int) -> dict[str, Any]:
        run = self.config.run
        result = evaluate(
            self.policy,
            self.encoded,
            self.rewarder,
            self.data.held_out,
            stage=self.config.stage,
            update=update,
            images=run.eval_images,
            steps=run.eval_steps,
            seed=run.seed,
            batch_size=self.config.grpo.micro_batch,
            processes=self.processes,
            on_progress=lambda made: self.on_progress(f"held-out {made}/{run.eval_images}"),
        )
        if self.processes.is_main:
            write_atomic_json(self.folder.heldout(update), result.as_json())
        return dict(result.summary)

    def _sheet(self, update: int) -> None:
        run = self.config.run
        write_sample_sheet(
            self.folder.sheet(update),
            self.policy,
            self.encoded,
            self.rewarder,
            self.data.held_out,
            title=f"{self.config.stage}, update {update}",
            rows=run.sample_references,
            seeds=run.sample_seeds,
            steps=run.sample_steps,
            batch_size=self.config.grpo.micro_batch,
            processes=self.processes,
            on_progress=lambda made: self.on_progress(f"sheet {made}"),
        )

    def _best(self, update: int, row: dict[str, Any], best: Best | None) -> Best | None:
        """The first update counts whatever its score, so that lora/best.safetensors exists; later ones must beat it."""
        score = selection_score(row)
        if best is not None and not score > best.score:
            return best
        if self.processes.is_main:
            copy_atomic(self.folder.numbered_lora(update), self.folder.best_lora)
        return Best(update=update, score=score if math.isfinite(score) else LEAST_SCORE)
