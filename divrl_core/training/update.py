"""One update of the policy from a rollout: the loss by micro-batch, the gradient, the optimizer's step.

The objective is the mean over valid samples and trained steps of `min(r A, clip(r) A) - beta KL`
(arXiv:2606.23950, eq. 2); with grpo.objective=dppo Flow-DPPO's term stands in place of the clip. An invalid sample goes
through the model with the others, so that the batch keeps its shape, and has no part in loss or averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import GrpoConfig
from ..models.conditioning import Conditioning
from ..rl.grpo import gaussian_kl, velocity_kl
from .encoded_pairs import EncodedPairs
from .judged import FORWARD, TRAINED, Judged, check_finite
from .objectives import OBJECTIVES
from .optimizer_steps import OptimizerSteps
from .policy import Policy
from .processes import Processes
from .rollout import MicroBatch, SamplingPlan, TrainedStep
from .stepper import Stepper


@dataclass
class LossSums:
    """What is added up over an update's steps, for the averages in metrics.jsonl; KL where it was measured."""

    count: int = 0
    ratio: float = 0.0
    deviation: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0
    kl_count: int = 0
    evaluations: int = 0

    def add(self, ratio: Tensor, clipped: Tensor, kl: Tensor | None) -> None:
        if not ratio.numel():
            return
        self.count += ratio.numel()
        self.ratio += ratio.double().sum().item()
        self.deviation = max(self.deviation, (ratio - 1).abs().max().item())
        self.clipped += clipped.sum().item()
        if kl is not None:
            self.kl += kl.detach().double().sum().item()
            self.kl_count += kl.numel()

    def over(self, processes: Processes) -> LossSums:
        """The sums of all processes together."""
        sums = torch.tensor(
            [self.count, self.ratio, self.clipped, self.kl, self.kl_count, self.evaluations],
            dtype=torch.float64,
        )
        count, ratio, clipped, kl, kl_count, evaluations = processes.sum(sums).tolist()
        return LossSums(
            count=int(count),
            ratio=ratio,
            deviation=processes.max(self.deviation),
            clipped=clipped,
            kl=kl,
            kl_count=int(kl_count),
            evaluations=int(evaluations),
        )


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Averages of an update over valid samples and trained steps; NaN where nothing was measured.

    grad_norm and grad_rms are taken before clipping, of the last optimizer step. optimizer_steps: how many were made
    (none where no sample taught anything). model_evaluations: of all processes; see judged.py.
    """

    ratio_mean: float
    ratio_max_deviation: float
    clip_share: float
    kl: float
    grad_norm: float
    grad_rms: float
    optimizer_steps: int
    model_evaluations: int

    def row(self) -> dict[str, float]:
        """What metrics.jsonl says of it."""
        names = ("ratio_mean", "ratio_max_deviation", "clip_share", "kl", "grad_rms", "grad_norm")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class Learner:
    """Makes optimizer steps from judged micro-batches. `after_step` is called after each (the average follows it)."""

    policy: Policy
    stepper: Stepper
    config: GrpoConfig
    processes: Processes
    after_step: Callable[[], None]

    def drawing(self) -> AbstractContextManager[None]:
        """The policy itself draws the samples."""
        return nullcontext()

    def check(self, plan: SamplingPlan, encoded: EncodedPairs, batch: MicroBatch) -> None:
        """Recompute a fresh rollout's log-probabilities as training will: they must be equal, bit for bit.

        Compiled blocks may differ in the last bits with and without gradient: there `|ratio - 1|` may be a tenth of the
        clip range. Raises ValueError with the step, the size of the difference and what to change.
        """
        is_compiled = self.policy.adapter.base.compile
        allowed = self.config.clip_range / 10 if is_compiled else 0.0
        for step, off in self.law_deviations(plan, encoded, batch).items():
            if not off <= math.log1p(allowed):  # also where it is NaN
                where = f"at step {step} of {batch.pair.group_id}"
                raise ValueError(_ratio_law_broken(where, off, allowed))

    def law_deviations(
        self, plan: SamplingPlan, encoded: EncodedPairs, batch: MicroBatch
    ) -> dict[int, float]:
        """By how much the log-probabilities of each trained step differ between rollout and training; 0 by the law."""
        conditioning = encoded.conditioning([batch.pair]).repeat(len(batch.unit.samples))
        deviations = {}
        for kept in batch.steps:
            step = kept.to(self.policy.device)
            with torch.enable_grad():
                v = self.policy.velocity(step.x_t, plan.times[step.step], conditioning)
            log_prob = plan.log_prob(step.x_next, plan.gaussian(step.x_t, v.detach(), step.step))
            deviations[step.step] = (log_prob - step.log_prob).double().abs().max().item()
        return deviations

    def learn(
        self,
        plan: SamplingPlan,
        encoded: EncodedPairs,
        judged: Sequence[Judged],
        *,
        on_progress: Callable[[int], None],
    ) -> UpdateStats:
        """Make the update's optimizer steps, each from an equal share of the groups, in order.

        In lockstep every micro-batch is gone through, so that all processes make equally many forwards.
        `on_progress(optimizer_steps_made)` is called before each micro-batch. Raises ValueError when a loss or a
        gradient is not finite.
        """
        sums = LossSums()

        def teaches(item: Judged) -> bool:
            return self._teaches(plan, item)

        def backward(item: Judged, valid_count: int) -> None:
            self._backward(plan, encoded, item, valid_count, sums)

        steps = OptimizerSteps(
            stepper=self.stepper, config=self.config, processes=self.processes, after_step=self.after_step
        )
        made = steps.make(
            judged, teaches=teaches, takes_part=teaches, backward=backward, on_progress=on_progress
        )
        sums = sums.over(self.processes)
        seen = sums.count or math.nan
        return UpdateStats(
            ratio_mean=sums.ratio / seen,
            ratio_max_deviation=sums.deviation if sums.count else math.nan,
            clip_share=sums.clipped / seen,
            kl=sums.kl / (sums.kl_count or math.nan),
            grad_norm=made.grad_norm,
            grad_rms=made.grad_rms,
            optimizer_steps=made.count,
            model_evaluations=sums.evaluations,
        )

    def kept(self) -> dict[str, Any]:
        """Nothing but what every run keeps."""
        return {}

    def _backward(
        self, plan: SamplingPlan, encoded: EncodedPairs, item: Judged, valid_count: int, sums: LossSums
    ) -> None:
        """Add one micro-batch's gradient, a trained step at a time, so that one step's activations are held."""
        batch = item.batch
        conditioning = encoded.conditioning([batch.pair]).repeat(len(batch.unit.samples))
        advantages = item.advantages.to(self.policy.device)
        rows = item.valid.nonzero().flatten().to(self.policy.device)
        objective = OBJECTIVES[self.config.objective]
        for kept in batch.steps:
            step = kept.to(self.policy.device)
            v = self.policy.velocity(step.x_t, plan.times[step.step], conditioning)
            gaussian = plan.gaussian(step.x_t, v, step.step)
            log_prob = plan.log_prob(step.x_next, gaussian)
            term = objective(self.config, step, log_prob, gaussian, advantages[rows], rows)
            kl = self._kl(plan, step, v, conditioning)
            sums.evaluations += item.own_samples * (TRAINED if kl is None else TRAINED + FORWARD)
            losses = term.loss if kl is None else term.loss + self.config.kl_weight * kl[rows]
            check_finite("policy loss", term.loss, batch, rows)
            if kl is not None:
                check_finite("KL", kl[rows], batch, rows)
            sums.add(term.ratio, term.clipped, None if kl is None else kl[rows])
            self.stepper.backward(losses.sum() / (valid_count * len(batch.steps)))

    def _kl(
        self, plan: SamplingPlan, step: TrainedStep, v: Tensor, conditioning: Conditioning
    ) -> Tensor | None:
        if not self._has_kl(step.step):
            return None
        v_reference = self.policy.reference_velocity(step.x_t, plan.times[step.step], conditioning)
        if self.config.kl_kind == "velocity":
            return velocity_kl(v, v_reference)
        here = plan.gaussian(step.x_t, v, step.step)
        there = plan.gaussian(step.x_t, v_reference, step.step)
        return gaussian_kl(here.mean, there.mean, here.std)

    def _has_kl(self, step: int) -> bool:
        """Whether KL holds the policy at a step."""
        limit = self.config.kl_steps
        return self.config.kl_weight > 0 and (limit is None or step < limit)

    def _teaches(self, plan: SamplingPlan, item: Judged) -> bool:
        """Whether anything can be learned from a micro-batch."""
        return bool(item.valid.any()) and (item.teaches or any(map(self._has_kl, plan.trained)))


def _ratio_law_broken(where: str, off: float, allowed: float) -> str:
    law = (
        f"must be 1 to within {allowed:.3g} (a tenth of grpo.clip_range)" if allowed else "must be exactly 1"
    )
    change = (
        "model.compile=false"
        if allowed
        else "model.gradient_checkpointing=false, with model.dtype=float32 or with another grpo.micro_batch"
    )
    return (
        f"ratio law: before any update the policy ratio {law}, but {where} the log-probability differs by {off:.3g} "
        f"between rollout and training; start a new run with {change}"
    )
