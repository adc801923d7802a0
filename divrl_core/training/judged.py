"""What an update learns from: micro-batches with the worth of each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .rollout import GENTLER_RUN, MicroBatch

# Model evaluations: of one sample at one time, and what it counts when a gradient is taken through it. A forward that
# gradient checkpointing makes again is not counted.
FORWARD, TRAINED = 1, 3


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A micro-batch with the advantages of its samples and which of them count, each (B,)."""

    batch: MicroBatch
    advantages: Tensor
    valid: Tensor

    @property
    def teaches(self) -> bool:
        """Whether any sample is better or worse than its group."""
        return bool((self.advantages[self.valid] != 0).any())

    @property
    def own_samples(self) -> int:
        """Samples that are no other process's."""
        return 0 if self.batch.unit.is_stand_in else len(self.batch.unit.samples)


def check_finite(term: str, values: Tensor, batch: MicroBatch, rows: Tensor) -> None:
    """Raise ValueError naming the term and the first sample, of the micro-batch's `rows`, whose value is not finite."""
    broken = (~torch.isfinite(values)).nonzero().flatten()
    if len(broken):
        name = batch.sample_name(int(rows[broken[0]]))
        raise ValueError(f"update: the {term} of {name} is not finite; {GENTLER_RUN}")
