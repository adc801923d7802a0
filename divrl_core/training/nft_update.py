"""One update by DiffusionNFT (arXiv:2509.16117): finished pictures are noised again and the velocity there is taught.

The objective is the mean over valid samples and their times of `nft_loss + beta_ref mean (v - v_ref)^2` (rl/nft.py).
Samples are drawn from the old policy, a frozen adapter that follows the trained one after each update. Nothing of how
a picture was sampled is needed, so any solver may draw it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..config import GrpoConfig, NftConfig, TrainConfig
from ..flow.noise import keyed_noise, keyed_seed
from ..flow.path import interpolate
from ..flow.times import times_of_schedule, uniform_times
from ..models.lora import OLD, lora_parameters, lora_state
from ..rl.ema import ema_update_
from ..rl.grpo import velocity_kl
from ..rl.nft import nft_loss, old_decay, optimality
from .encoded_pairs import EncodedPairs
from .judged import FORWARD, TRAINED, Judged, check_finite
from .optimizer_steps import OptimizerSteps
from .policy import Policy
from .processes import Processes
from .rollout import MicroBatch, SamplingPlan
from .stepper import Stepper


def nft_plan(config: TrainConfig, times: Sequence[float], update: int) -> SamplingPlan:
    """The plan of an update: no step is trained, and with nft.noisy_rollout alone some are noisy."""
    return SamplingPlan(
        times=tuple(times),
        trained=frozenset(),
        solver=config.rollout.solver,
        noise_levels=config.rollout.noise_of_steps(update) if config.nft.noisy_rollout else {},
        update=update,
    )


@dataclass
class NftSums:
    """What is added up over an update's samples and times, for the averages in metrics.jsonl."""

    count: float = 0
    loss: float = 0.0
    r: float = 0.0
    old_distance: float = 0.0
    kl: float = 0.0
    evaluations: float = 0

    def add(self, **terms: Tensor) -> None:
        """Add values of some samples at one time, each (K,)."""
        self.count += len(terms["loss"])
        for name, values in terms.items():
            setattr(self, name, getattr(self, name) + values.detach().double().sum().item())

    def over(self, processes: Processes) -> NftSums:
        """The sums of all processes together."""
        names = [field.name for field in fields(self)]
        sums = torch.tensor([getattr(self, name) for name in names], dtype=torch.float64)
        return NftSums(**dict(zip(names, processes.sum(sums).tolist(), strict=True)))


@dataclass(frozen=True, kw_only=True)
class NftStats:
    """Averages of an update over valid samples and times; NaN where nothing was measured.

    optimality: of r. old_distance: `mean (v - v_old)^2`. kl: `mean (v - v_ref)^2`. The others as of `UpdateStats`.
    """

    policy_loss: float
    optimality: float
    old_distance: float
    kl: float
    grad_norm: float
    grad_rms: float
    optimizer_steps: int
    model_evaluations: int

    def row(self) -> dict[str, float]:
        """What metrics.jsonl says of it."""
        names = ("policy_loss", "optimality", "old_distance", "kl", "grad_rms", "grad_norm")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class NftLearner:
    """Makes optimizer steps from judged micro-batches; the transformer holds the adapter OLD beside the trained one.

    groups: how an update is cut into steps. seed: of the run. old_steps: optimizer steps that the old policy has
    followed. `after_step` is called after each step (the average follows it).
    """

    policy: Policy
    stepper: Stepper
    config: NftConfig
    groups: GrpoConfig
    processes: Processes
    after_step: Callable[[], None]
    seed: int
    old_steps: int = 0

    def drawing(self) -> AbstractContextManager[None]:
        """Inside this block the old policy answers: it draws the samples."""
        return self.policy.as_old()

    def check(self, plan: SamplingPlan, encoded: EncodedPairs, batch: MicroBatch) -> None:
        """Nothing: no likelihood of the rollout's is compared, so no law ties it to training."""

    def learn(
        self,
        plan: SamplingPlan,
        encoded: EncodedPairs,
        judged: Sequence[Judged],
        *,
        on_progress: Callable[[int], None],
    ) -> NftStats:
        """Make the update's optimizer steps, each from an equal share of the groups; then the old policy follows.

        A share in which no sample is better or worse than its group is passed over. In the others every valid sample
        counts: one as good as its group has r = 1/2, which holds v to v_old. `on_progress(optimizer_steps_made)` is
        called before each micro-batch. Raises ValueError when a loss or a gradient is not finite.
        """
        sums = NftSums()

        def backward(item: Judged, valid_count: int) -> None:
            self._backward(plan, encoded, item, valid_count, sums)

        steps = OptimizerSteps(
            stepper=self.stepper, config=self.groups, processes=self.processes, after_step=self.after_step
        )
        made = steps.make(
            judged,
            teaches=lambda item: item.teaches,
            takes_part=lambda item: bool(item.valid.any()),
            backward=backward,
            on_progress=on_progress,
        )
        self._follow(made.count)
        sums = sums.over(self.processes)
        seen = sums.count or math.nan
        return NftStats(
            policy_loss=sums.loss / seen,
            optimality=sums.r / seen,
            old_distance=sums.old_distance / seen,
            kl=sums.kl / seen if self.config.kl_weight > 0 else math.nan,
            grad_norm=made.grad_norm,
            grad_rms=made.grad_rms,
            optimizer_steps=made.count,
            model_evaluations=int(sums.evaluations),
        )

    def kept(self) -> dict[str, Any]:
        """The old policy, and how many steps it has followed."""
        transformer = self.policy.adapter.transformer
        return {"old": lora_state(transformer, adapter=OLD), "old_steps": self.old_steps}

    def _backward(
        self, plan: SamplingPlan, encoded: EncodedPairs, item: Judged, valid_count: int, sums: NftSums
    ) -> None:
        """Add one micro-batch's gradient, a time at a time, so that one forward's activations are held."""
        batch, config, policy = item.batch, self.config, self.policy
        conditioning = encoded.conditioning([batch.pair]).repeat(len(batch.unit.samples))
        rows = item.valid.nonzero().flatten().to(policy.device)
        r = optimality(item.advantages.to(policy.device), config.advantage_scale)
        x_0 = batch.tokens.to(policy.device)
        schedule = self._times(plan, batch)
        for number in range(config.times_per_sample):
            t = schedule[:, number].to(policy.device)
            x_t = interpolate(x_0, self._noise(plan, batch, number), t)

            # The frozen two first: what autograd keeps of the third is then not held beside them.
            v_old = policy.old_velocity(x_t, t, conditioning)
            v_ref = policy.reference_velocity(x_t, t, conditioning) if config.kl_weight > 0 else None
            v = policy.velocity(x_t, t, conditioning)
            sums.evaluations += item.own_samples * (TRAINED + FORWARD + FORWARD * (v_ref is not None))

            losses = nft_loss(v, v_old, x_0=x_0, x_t=x_t, t=t, r=r, a=config.advantage_scale, b=config.beta)[
                rows
            ]
            check_finite("policy loss", losses, batch, rows)
            terms = {"loss": losses, "r": r[rows], "old_distance": velocity_kl(v, v_old)[rows]}
            if v_ref is not None:
                terms["kl"] = velocity_kl(v, v_ref)[rows]
                check_finite("distance from the reference", terms["kl"], batch, rows)
                losses = losses + config.kl_weight * terms["kl"]
            sums.add(**terms)
            self.stepper.backward(losses.sum() / (valid_count * config.times_per_sample))

    def _follow(self, steps: int) -> None:
        """The old policy's step towards the trained one."""
        self.old_steps += steps
        decay = old_decay(self.old_steps, rate=self.config.old_decay_rate, most=self.config.old_decay_most)
        old = lora_parameters(self.policy.adapter.transformer, adapter=OLD)
        ema_update_(old, self.policy.parameters, decay)

    def _times(self, plan: SamplingPlan, batch: MicroBatch) -> Tensor:
        """The times (B, times_per_sample) of a micro-batch's samples."""
        count, rows = self.config.times_per_sample, []
        for sample in batch.unit.samples:
            key = keyed_seed(
                seed=self.seed,
                stream="nft times",
                update=plan.update,
                group=batch.pair.group_id,
                sample=sample,
            )
            generator = torch.Generator().manual_seed(key)
            if self.config.times == "schedule":
                rows.append(times_of_schedule(plan.times, count, generator))
            else:
                rows.append(uniform_times(torch.rand(count, generator=generator)))
        return torch.stack(rows)

    def _noise(self, plan: SamplingPlan, batch: MicroBatch, number: int) -> Tensor:
        """The noise (B, N, C) of a micro-batch's samples at their time `number`."""
        drawn = [
            keyed_noise(
                self.policy.latent_shape,
                seed=self.seed,
                stream="nft noise",
                update=plan.update,
                group=batch.pair.group_id,
                sample=sample,
                step=number,
            )
            for sample in batch.unit.samples
        ]
        return torch.stack(drawn).to(self.policy.device)
