"""What a cfm run shows of itself every so often: validation loss, a sample sheet, LoRA files; all of the average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..config_cfm import CfmConfig, CfmRunConfig
from ..evaluation.comparison import write_sheet
from ..evaluation.sheets import SheetRow, contact_sheet
from ..flow.noise import keyed_noise
from ..models.flux import FluxAdapter
from ..models.layout import NO_REFERENCE
from ..models.lora import with_lora_state
from ..models.panels import letterbox
from .cfm_batches import SizedPair
from .checkpoint import Best, Tensors
from .files import copy_atomic, write_atomic_json
from .latent_cache import LatentCache
from .pair_set import PairSet, subjects
from .placement import turns
from .processes import Processes
from .run_folder import RunFolder
from .validation import validate

SHEET_PX = 256  # side of a picture on the sheet, where its panel is larger


@dataclass(frozen=True)
class CfmDue:
    """What is to be written at an update: the first and the last update, and every so many."""

    validation: bool
    sheet: bool
    lora: bool

    @classmethod
    def at(cls, update: int, run: CfmRunConfig) -> CfmDue:
        """What is due after `update` updates."""

        def is_due(every: int) -> bool:
            return update == run.updates or update % every == 0

        validation = is_due(run.validate_every_updates)
        return cls(
            validation=validation,
            sheet=is_due(run.sample_every_updates),
            lora=update > 0 and (validation or is_due(run.save_every_updates)),
        )

    @property
    def anything(self) -> bool:
        """Whether anything is due."""
        return self.validation or self.sheet or self.lora


@dataclass(frozen=True, kw_only=True)
class CfmPublisher:
    """Writes what is due; knows nothing of how the weights came about.

    Of several processes all measure and make pictures, and the main one alone writes.
    """

    config: CfmConfig
    folder: RunFolder
    adapter: FluxAdapter
    cache: LatentCache
    held_out: PairSet
    sized: Sequence[SizedPair]
    """The held-out pairs with their panels' sizes."""
    autocast: Callable[[], AbstractContextManager[None]]
    processes: Processes
    on_progress: Callable[[str], None]

    def publish(
        self, update: int, average: Tensors, best: Best | None
    ) -> tuple[Best | None, dict[str, Any] | None]:
        """Write what is due at `update`. Returns the best so far, and the row of held-out measures if made."""
        due, row = CfmDue.at(update, self.config.run), None
        if due.lora and self.processes.is_main:
            path = self.folder.numbered_lora(update)
            numbered = self.folder.write_lora(path, average, self.config, layout=self.adapter.layout)
            copy_atomic(numbered, self.folder.last_lora)
        with with_lora_state(self.adapter.transformer, average):
            if due.validation:
                row = self._validate(update)
            if due.sheet:
                self._sheet(update)
        if row is not None and update > 0:
            best = self._best(update, -row["validation_loss"], best)
        return best, row

    def sheet_pairs(self) -> list[SizedPair]:
        """The rows of the sheet: the first pair of each subject, then, where these are few, the other pairs."""
        groups = subjects([item.pair for item in self.sized], lambda name: self.held_out.facts(name).digest)
        first = {group[0].pair_id for group in groups}
        in_turn = sorted(self.sized, key=lambda item: item.pair.pair_id not in first)
        return in_turn[: self.config.run.sample_pairs]

    def _validate(self, update: int) -> dict[str, Any]:
        row = validate(
            self.adapter,
            self.sized,
            self.held_out,
            self.cache,
            self.config,
            update=update,
            autocast=self.autocast,
            processes=self.processes,
            on_progress=lambda made: self.on_progress(f"validation {made}/{len(self.sized)}"),
        )
        if self.processes.is_main:
            write_atomic_json(self.folder.heldout(update), {"summary": row})
        return row

    def _sheet(self, update: int) -> None:
        run, processes, shown = self.config.run, self.processes, self.sheet_pairs()
        cells = [(item, seed) for item in shown for seed in run.sample_seeds]
        made: list[tuple[int, Tensor]] = []
        for place, is_stand_in in turns(
            len(cells), processes.index, processes.count, in_lockstep=processes.in_lockstep
        ):
            picture = self._picture(*cells[place])
            if not is_stand_in:
                made.append((place, picture))
        pictures = dict(processes.gather(made))
        if not processes.is_main:
            return
        rows = []
        for number, item in enumerate(shown):
            first = number * len(run.sample_seeds)
            results = [pictures[first + column] for column in range(len(run.sample_seeds))]
            reference = letterbox(self.held_out.load(item.pair.reference_id), item.height, item.width)
            rows.append(SheetRow(label=item.pair.captions[0], reference=_square(reference), results=results))
        sheet = contact_sheet(
            rows,
            columns=["reference", *(f"seed {seed}" for seed in run.sample_seeds)],
            title=f"cfm, update {update}",
        )
        write_sheet(self.folder.sheet(update), sheet)

    def _picture(self, item: SizedPair, seed: int) -> Tensor:
        self.on_progress(f"sheet {item.pair.reference_id}, seed {seed}")
        text = self.cache.caption(item.pair.captions[0]).to(self.adapter.device)
        is_left_out = self.adapter.layout == NO_REFERENCE
        shown = (
            item.target if is_left_out else item.reference
        )  # without a reference its tokens are not looked at
        reference = self.cache.latent(self.held_out, shown).to(self.adapter.device)
        given = self.adapter.conditioning(text, reference, height=item.height, width=item.width)
        shape = self.adapter.latent_shape(item.height, item.width)
        noise = keyed_noise(shape, seed=seed, stream="sample sheet", group=item.pair.pair_id)[None]
        with self.autocast():
            tokens = self.adapter.sample(
                given,
                noise,
                height=item.height,
                width=item.width,
                steps=self.config.run.sample_steps,
                guidance=self.config.model.guidance_scale,
            )
            return _square(self.adapter.decode(tokens, item.height, item.width)[0].cpu())

    def _best(self, update: int, score: float, best: Best | None) -> Best | None:
        if best is not None and not score > best.score:
            return best
        if self.processes.is_main:
            copy_atomic(self.folder.numbered_lora(update), self.folder.best_lora)
        return Best(update=update, score=score)


def _square(picture: Tensor) -> Tensor:
    """As a square cell of the sheet: pictures of all panels stand in one column."""
    side = min(SHEET_PX, max(picture.shape[1:]))
    return picture if picture.shape[1:] == (side, side) else letterbox(picture, side, side)
