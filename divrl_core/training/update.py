"""One update of the policy from a rollout: the loss by micro-batch, the gradient, the optimizer's step.

The objective is the mean over valid samples and trained steps of `min(r A, clip(r) A) - beta KL`
(arXiv:2606.23950, eq. 2). An invalid sample goes through the model with the others, so that the batch keeps its shape,
and has no part in loss or averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..config import GrpoConfig
from ..models.conditioning import Conditioning
from ..rl.grpo import clipped_policy_loss, gaussian_kl, velocity_kl
from .encoded_pairs import EncodedPairs
from .policy import Policy
from .rollout import GENTLER_RUN, MicroBatch, SamplingPlan, TrainedStep


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A micro-batch with the advantages of its samples and which of them count, each (B,)."""

    batch: MicroBatch
    advantages: Tensor
    valid: Tensor

    @property
    def teaches(self) -> bool:
        """Whether the policy term has any gradient here."""
        return bool((self.advantages[self.valid] != 0).any())


@dataclass
class LossSums:
    """What is added up over an update's steps, for the averages in metrics.jsonl."""

    count: int = 0
    ratio: float = 0.0
    deviation: float = 0.0
    clipped: float = 0.0
    kl: float = 0.0

    def add(self, ratio: Tensor, clipped: Tensor, kl: Tensor | None) -> None:
        self.count += ratio.numel()
        self.ratio += ratio.double().sum().item()
        self.deviation = max(self.deviation, (ratio - 1).abs().max().item())
        self.clipped += clipped.sum().item()
        self.kl += 0.0 if kl is None else kl.detach().double().sum().item()


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Averages of an update over valid samples and trained steps; NaN where nothing was measured.

    grad_norm and grad_rms are taken before clipping, of the last optimizer step. optimizer_steps: how many were made
    (none where no sample taught anything).
    """

    ratio_mean: float
    ratio_max_deviation: float
    clip_share: float
    kl: float
    grad_norm: float
    grad_rms: float
    optimizer_steps: int


@dataclass(kw_only=True)
class Learner:
    """Makes optimizer steps from judged micro-batches. `after_step` is called after each (the average follows it)."""

    policy: Policy
    optimizer: torch.optim.Optimizer
    config: GrpoConfig
    max_grad_norm: float
    accelerator: Accelerator
    after_step: Callable[[], None]
    parameters: Mapping[str, nn.Parameter] = field(init=False)

    def __post_init__(self) -> None:
        self.parameters = self.policy.parameters

    def check_ratio_law(self, plan: SamplingPlan, encoded: EncodedPairs, batch: MicroBatch) -> None:
        """Recompute a fresh rollout's log-probabilities as training will: they must be equal, bit for bit.

        Raises ValueError with the step and the size of the difference.
        """
        conditioning = encoded.conditioning([batch.pair]).repeat(len(batch.samples))
        for step in batch.steps:
            with torch.enable_grad():
                v = self.policy.velocity(step.x_t, plan.times[step.step], conditioning)
            log_prob = plan.log_prob(step.x_next, plan.gaussian(step.x_t, v.detach(), step.step))
            if not torch.equal(log_prob, step.log_prob):
                off = (log_prob - step.log_prob).abs().max().item()
                raise ValueError(
                    f"ratio law: before any update the policy ratio must be exactly 1, but at step {step.step} of "
                    f"{batch.pair.group_id} the log-probability differs by {off:.3g} between rollout and training; "
                    "start a new run with model.gradient_checkpointing=false, with model.dtype=float32 or with "
                    "another grpo.micro_batch"
                )

    def learn(
        self,
        plan: SamplingPlan,
        encoded: EncodedPairs,
        judged: Sequence[Judged],
        *,
        on_progress: Callable[[int], None],
    ) -> UpdateStats:
        """Make the update's optimizer steps, each from an equal share of the groups, in order.

        `on_progress(optimizer_steps_made)` is called before each micro-batch. Raises ValueError when a loss or a
        gradient is not finite.
        """
        sums, norm, rms, made = LossSums(), math.nan, math.nan, 0
        for part in self._shares(judged):
            self.optimizer.zero_grad(set_to_none=True)
            valid_count = self._over_processes(sum(int(item.valid.sum()) for item in part))
            taught = 0
            for item in part:
                on_progress(made)
                if not item.valid.any() or (self.config.kl_weight == 0 and not item.teaches):
                    continue
                taught += 1
                self._backward(plan, encoded, item, valid_count, sums)
            if not self._over_processes(taught):
                continue
            norm, rms = self._clipped_gradient()
            self.optimizer.step()
            self.after_step()
            made += 1
        self.optimizer.zero_grad(set_to_none=True)
        seen = sums.count or math.nan
        return UpdateStats(
            ratio_mean=sums.ratio / seen,
            ratio_max_deviation=sums.deviation if sums.count else math.nan,
            clip_share=sums.clipped / seen,
            kl=sums.kl / seen if self.config.kl_weight > 0 else math.nan,
            grad_norm=norm,
            grad_rms=rms,
            optimizer_steps=made,
        )

    def _shares(self, judged: Sequence[Judged]) -> list[list[Judged]]:
        """The micro-batches split by whole groups into as many shares as optimizer steps are wanted."""
        groups = list(dict.fromkeys(item.batch.group for item in judged))
        count = min(self.config.optimizer_steps_per_rollout, len(groups))
        share_of = {group: place * count // len(groups) for place, group in enumerate(groups)}
        return [[item for item in judged if share_of[item.batch.group] == share] for share in range(count)]

    def _backward(
        self, plan: SamplingPlan, encoded: EncodedPairs, item: Judged, valid_count: int, sums: LossSums
    ) -> None:
        """Add one micro-batch's gradient, a trained step at a time, so that one step's activations are held."""
        batch = item.batch
        conditioning = encoded.conditioning([batch.pair]).repeat(len(batch.samples))
        rows = item.valid.nonzero().flatten()
        for step in batch.steps:
            v = self.policy.velocity(step.x_t, plan.times[step.step], conditioning)
            gaussian = plan.gaussian(step.x_t, v, step.step)
            log_prob = plan.log_prob(step.x_next, gaussian)
            term = clipped_policy_loss(
                log_prob[rows],
                step.log_prob[rows],
                item.advantages[rows],
                clip_range=self.config.clip_range,
            )
            kl = self._kl(plan, step, v, conditioning)
            losses = term.loss if kl is None else term.loss + self.config.kl_weight * kl[rows]
            _check_finite("policy loss", term.loss, batch, rows)
            if kl is not None:
                _check_finite("KL", kl[rows], batch, rows)
            sums.add(term.ratio, term.clipped, None if kl is None else kl[rows])
            self.accelerator.backward(losses.sum() / (valid_count * len(batch.steps)))

    def _kl(
        self, plan: SamplingPlan, step: TrainedStep, v: Tensor, conditioning: Conditioning
    ) -> Tensor | None:
        if self.config.kl_weight == 0:
            return None
        v_reference = self.policy.reference_velocity(step.x_t, plan.times[step.step], conditioning)
        if self.config.kl_kind == "velocity":
            return velocity_kl(v, v_reference)
        here = plan.gaussian(step.x_t, v, step.step)
        there = plan.gaussian(step.x_t, v_reference, step.step)
        return gaussian_kl(here.mean, there.mean, here.std)

    def _clipped_gradient(self) -> tuple[float, float]:
        """Sum the gradient over processes and clip it; its norm and RMS before that."""
        for parameter in self.parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if self.accelerator.num_processes > 1:
                parameter.grad = self.accelerator.reduce(parameter.grad, reduction="sum")  # type: ignore[assignment]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm).item()
        if not math.isfinite(norm):
            raise ValueError(f"update: the gradient is not finite; {GENTLER_RUN}")
        count = sum(parameter.numel() for parameter in self.parameters.values())
        return norm, norm / math.sqrt(count)

    def _over_processes(self, number: int) -> int:
        if self.accelerator.num_processes == 1:
            return number
        total = self.accelerator.reduce(torch.tensor(number, device=self.policy.device), reduction="sum")
        return int(total)  # type: ignore[arg-type]


def _check_finite(term: str, values: Tensor, batch: MicroBatch, rows: Tensor) -> None:
    broken = (~torch.isfinite(values)).nonzero().flatten()
    if len(broken):
        name = batch.sample_name(int(rows[broken[0]]))
        raise ValueError(f"update: the {term} of {name} is not finite; {GENTLER_RUN}")
