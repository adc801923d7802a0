"""From judged micro-batches to optimizer steps: which groups a step learns from, and what all processes do together.

The loss is the algorithm's; nothing of it is known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..config import GrpoConfig
from .judged import Judged
from .placement import share_of
from .processes import Processes
from .rollout import GENTLER_RUN
from .stepper import Stepper


@dataclass(frozen=True, kw_only=True)
class StepsMade:
    """How many optimizer steps were made, and norm and RMS of the last one's gradient before clipping (NaN: none)."""

    count: int
    grad_norm: float
    grad_rms: float


@dataclass(frozen=True, kw_only=True)
class OptimizerSteps:
    """Makes an update's optimizer steps, each from an equal share of the groups, in order.

    `after_step` is called after each (the average follows it).
    """

    stepper: Stepper
    config: GrpoConfig
    processes: Processes
    after_step: Callable[[], None]

    def make(
        self,
        judged: Sequence[Judged],
        *,
        teaches: Callable[[Judged], bool],
        takes_part: Callable[[Judged], bool],
        backward: Callable[[Judged, int], None],
        on_progress: Callable[[int], None],
    ) -> StepsMade:
        """Make the steps.

        In lockstep every micro-batch is gone through, so that all processes make equally many forwards.

        Args:
            teaches: whether a micro-batch is reason to make a step; a share in which none is, is passed over.
            takes_part: whether it is gone through where a step is made.
            backward: adds a micro-batch's part of the mean over so many valid samples, of all processes.
            on_progress: called with the steps made before each micro-batch.

        Raises ValueError when a gradient is not finite.
        """
        norm, rms, made = math.nan, math.nan, 0
        for part in self._shares(judged):
            self.stepper.zero_grad()
            valid_count = max(1, self._sum(sum(int(item.valid.sum()) for item in part)))
            if not self.processes.any(any(map(teaches, part))):
                continue
            with self.stepper.accumulating():
                for item in part:
                    on_progress(made)
                    if self.processes.in_lockstep or takes_part(item):
                        backward(item, valid_count)
            norm = self.stepper.step()
            if not math.isfinite(norm):
                raise ValueError(f"update: the gradient is not finite; {GENTLER_RUN}")
            rms = norm / math.sqrt(sum(value.numel() for value in self.stepper.parameters.values()))
            self.after_step()
            made += 1
        self.stepper.zero_grad()
        return StepsMade(count=made, grad_norm=norm, grad_rms=rms)

    def _shares(self, judged: Sequence[Judged]) -> list[list[Judged]]:
        """The micro-batches by the optimizer step that learns from their group."""
        config = self.config
        count = min(config.optimizer_steps_per_rollout, config.groups_per_update)
        shares: list[list[Judged]] = [[] for _ in range(count)]
        for item in judged:
            shares[share_of(item.batch.unit.group, config.groups_per_update, count)].append(item)
        return shares

    def _sum(self, number: int) -> int:
        return int(self.processes.sum(torch.tensor(float(number))))
