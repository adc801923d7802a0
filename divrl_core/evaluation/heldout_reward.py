"""What the reward pays for held-out pictures: by a formula of their nSSM and VSM, or as a function or a server says.

A function or a server that judges pictures alone is asked as they are made. One that judges groups is asked when all
are made: the held-out pictures of one (reference, prompt) pair are its group, as many as run.eval_images makes of it.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import RewardConfig
from ..rewards.score import Scores
from ..training.processes import Processes
from ..training.references import PromptPair, ReferenceSet
from ..training.reward_formula import FORMULAS, formula_total, measures_in
from ..training.reward_wire import from_eight_bit, to_eight_bit
from ..training.rewarding import Rewarder
from .generate import PictureJob

if TYPE_CHECKING:
    from .heldout_summary import SampleScore

logger = logging.getLogger("divrl")


def pointwise_rewards(
    jobs: Sequence[PictureJob],
    pictures: Tensor,
    rewarder: Rewarder,
    references: ReferenceSet,
    scores: Scores,
) -> list[float]:
    """What is paid for each of the pictures (B, 3, H, W), whose scores are known; NaN = undefined."""
    paid = [0.0] * len(jobs)
    for pair, rows in _rows_of_pairs(jobs).items():
        totals = rewarder.pay(pictures[rows], references, pair, scores.select(rows)).total.tolist()
        for row, total in zip(rows, totals, strict=True):
            paid[row] = total
    return paid


class HeldOutGroups:
    """The pictures of an evaluation until all are made, in 8 bits on the CPU."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Tensor]] = []

    def keep(self, places: Sequence[int], pictures: Tensor) -> None:
        """Keep pictures (B, 3, H, W) at these places among the evaluation's jobs."""
        self._kept += zip(places, to_eight_bit(pictures), strict=True)

    def rewards(
        self,
        jobs: Sequence[PictureJob],
        rewarder: Rewarder,
        references: ReferenceSet,
        processes: Processes,
    ) -> list[float]:
        """What is paid for each job's picture, group by group; of several processes each asks for its share."""
        pictures = dict(processes.gather(self._kept))
        groups = list(_rows_of_pairs(jobs).items())
        if processes.is_main and max(len(rows) for _, rows in groups) == 1:
            logger.warning(
                "held-out: the reward judges groups, but no (reference, prompt) pair has two held-out pictures; for "
                "two of each set run.eval_images=%d",
                2 * len(references.pairs),
            )
        paid: list[tuple[int, float]] = []
        for pair, rows in groups[processes.index :: processes.count]:
            group = from_eight_bit(torch.stack([pictures[row] for row in rows]))
            paid += zip(rows, rewarder.reward(group, references, pair).total.tolist(), strict=True)
        return [total for _, total in sorted(processes.gather(paid))]


def rewards_of(
    reward: RewardConfig, samples: Sequence[SampleScore], gates: Mapping[str, float]
) -> list[float]:
    """What the reward pays for each picture, as it was paid or by the rewards' own formulas; NaN where undefined.

    brightness is not measured on held-out pictures, and a function's or server's pay may be missing: there the
    structure alone stands in.
    """
    paid = [sample.reward for sample in samples if sample.reward is not None]
    if not samples or len(paid) == len(samples):
        return paid
    measures = {
        name: torch.tensor([_value(sample, name) for sample in samples], dtype=torch.float64)
        for name in measures_in(reward) or {reward.paid_structure}
    }
    formula = reward if reward.kind in FORMULAS else replace(RewardConfig(), structure=reward.paid_structure)
    values: list[float] = formula_total(formula, measures, gates).tolist()
    return values


def _value(sample: SampleScore, name: str) -> float:
    value: float = getattr(sample, name) if name in ("nssm", "vsm") else sample.more.get(name, math.nan)
    return value


def _rows_of_pairs(jobs: Sequence[PictureJob]) -> dict[PromptPair, list[int]]:
    rows: dict[PromptPair, list[int]] = defaultdict(list)
    for row, job in enumerate(jobs):
        rows[job.pair].append(row)
    return rows
