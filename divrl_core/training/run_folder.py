"""The folder of a run: where everything lies, how it is opened, which LoRA files stay.

settings.yaml  metrics.jsonl  lora/{update-000040,best,last}.safetensors  checkpoint/  samples/  heldout/
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import yaml
from torch import Tensor

from ..config import TrainConfig, from_mapping, to_mapping
from ..config_cfm import CfmConfig
from ..models.lora_export import export_lora
from ..settings import as_recorded
from .checkpoint import Best, TrainState, check_same_settings, latest_checkpoint, load_checkpoint
from .files import copy_atomic, write_atomic_text
from .metrics_log import MetricsLog
from .processes import Processes

logger = logging.getLogger("divrl")

RunSettings = TrainConfig | CfmConfig


class RunFolder:
    """Paths of one run, and its LoRA files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.yaml"
        self.metrics = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoint"
        self._lora = path / "lora"

    def numbered_lora(self, update: int) -> Path:
        return self._lora / f"update-{update:06d}.safetensors"

    def sheet(self, update: int) -> Path:
        return self.path / "samples" / f"update-{update:06d}.jpg"

    def heldout(self, update: int) -> Path:
        return self.path / "heldout" / f"update-{update:06d}.json"

    @property
    def last_lora(self) -> Path:
        return self._lora / "last.safetensors"

    @property
    def best_lora(self) -> Path:
        return self._lora / "best.safetensors"

    def open(self, config: RunSettings, *, resume: bool) -> TrainState | None:
        """Make or reopen the folder, write the settings, and return the state to go on from (None: begin).

        Files that a kill left unfinished (*.tmp) do not count as use of the folder. Raises ValueError when the folder
        is in use and `resume` is off, or when the settings have changed.
        """
        state = None
        if resume:
            state = self._saved_state(config)
        elif self.path.is_dir() and any(path.suffix != ".tmp" for path in self.path.iterdir()):
            raise ValueError(
                f"{self.path} is not empty; go on with the run in it by --resume, or name another --output"
            )
        elif self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; name a folder with --output")
        # The settings first: a folder with anything else in it can then be resumed, whenever a kill comes.
        write_atomic_text(
            self.settings, yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)
        )
        for folder in (self._lora, self.path / "samples", self.path / "heldout"):
            folder.mkdir(parents=True, exist_ok=True)
        return state

    def open_together(self, config: RunSettings, processes: Processes, *, resume: bool) -> TrainState | None:
        """`open`, of several processes: the main one looks and writes, and each reads the checkpoint itself.

        Raises FileNotFoundError where the main process found a checkpoint that another one cannot read.
        """
        if processes.count == 1:
            return self.open(config, resume=resume)
        own: list[TrainState | None] = [None]

        def look() -> str | None:
            own[0] = self.open(config, resume=resume)
            latest = latest_checkpoint(self.checkpoints) if own[0] is not None else None
            return None if latest is None else str(latest)

        found = processes.from_main(look)
        if processes.is_main or found is None:
            return own[0]
        return load_checkpoint(Path(found))

    def unread_log(self) -> MetricsLog:
        """The metrics of a process that writes none."""
        return MetricsLog(self.metrics, is_read=False)

    def open_log(self, state: TrainState | None) -> MetricsLog:
        """The metrics, cut back to what `state` knows of; files of later updates, and unfinished ones, are removed."""
        log = MetricsLog(self.metrics)
        update, is_published = (state.update, state.is_published) if state else (-1, False)
        if log.rows:
            log.cut_back(update=update, is_published=is_published)
        for folder in (self._lora, self.path / "samples", self.path / "heldout"):
            for path in folder.iterdir():
                number = path.stem.removeprefix("update-")
                is_later = path.name.startswith("update-") and number.isdigit() and int(number) > update
                # .tmp*: what safetensors itself was writing when an earlier version of this package was killed.
                if is_later or path.suffix == ".tmp" or path.name.startswith(".tmp"):
                    path.unlink()
        if state and state.best and self.numbered_lora(state.best.update).is_file():
            copy_atomic(self.numbered_lora(state.best.update), self.best_lora)
        return log

    def write_lora(
        self, path: Path, weights: Mapping[str, Tensor], config: RunSettings, *, layout: str
    ) -> Path:
        """Export LoRA weights with the run's settings and the reference's layout in the header."""
        return export_lora(
            path,
            weights,
            rank=config.lora.rank,
            alpha=config.lora.resolved_alpha,
            settings=to_mapping(config),
            layout=layout,
            metadata={"modelspec.title": f"DivRL {config.stage}, {self.path.name}, {path.stem}"},
        )

    def prune_loras(self, *, keep_last: int, best: Best | None) -> None:
        """Delete all numbered LoRA files but the last few and the best."""
        numbered = sorted(self._lora.glob("update-*.safetensors"))
        best_path = self.numbered_lora(best.update) if best else None
        for path in numbered[:-keep_last]:
            if path != best_path:
                path.unlink()

    def _saved_state(self, config: RunSettings) -> TrainState | None:
        if not self.settings.is_file():
            raise FileNotFoundError(
                f"nothing to resume in {self.path}: it has no settings.yaml; leave out --resume to start a run there"
            )
        latest = latest_checkpoint(self.checkpoints) if self.checkpoints.is_dir() else None
        if latest is None:
            logger.info("%s was stopped before its first checkpoint: it begins again", self.path)
            return None
        state = load_checkpoint(latest)
        then = as_recorded(type(config), state.settings)
        saved = to_mapping(from_mapping(type(config), then, str(latest)))
        check_same_settings(saved, to_mapping(config), done_updates=state.update)
        return state
