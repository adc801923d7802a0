"""Drawing samples from the policy, and what training must remember of how they were drawn.

A micro-batch holds samples of one (reference, prompt) pair. Of each trained step it keeps the latent before and after,
both in their storage dtype, and the log-probability: training runs the same batch through the same velocity function
and finds the same number, bit for bit, until the weights move (the ratio law).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..config import RolloutConfig
from ..flow.noise import keyed_noise, keyed_seed
from ..flow.sde import SOLVERS, Gaussian, draw, ode_step
from ..models.conditioning import Conditioning
from .encoded_pairs import tokens_are_finite
from .placement import Unit
from .policy import Policy
from .references import PromptPair

# A failed run cannot be resumed with other settings, but its last LoRA can be the start of a new one.
GENTLER_RUN = "start a new run with run.init_lora=<RUN>/lora/last.safetensors and a lower optim.lr"


@dataclass(frozen=True, kw_only=True)
class SamplingPlan:
    """The steps of an update's rollouts: the times (steps + 1), which steps are trained, and the solver.

    noise_levels: of each stochastic step; the others are deterministic. keeps_means: remember the trained steps' means,
    for an objective that compares them. update: its number.
    """

    times: tuple[float, ...]
    trained: frozenset[int]
    solver: str
    noise_levels: Mapping[int, float]
    keeps_means: bool = False
    update: int = 0

    def gaussian(self, x_t: Tensor, v: Tensor, step: int) -> Gaussian:
        """The distribution of the latent after a stochastic step."""
        return SOLVERS[self.solver].gaussian(
            x_t,
            v,
            self.times[step],
            self.times[step + 1],
            noise_level=self.noise_levels[step],
            t_second=self.times[1],
        )

    def log_prob(self, x_next: Tensor, gaussian: Gaussian) -> Tensor:
        """Log-probability (B,) of a drawn step, as the solver counts it."""
        return SOLVERS[self.solver].log_prob(x_next, gaussian)


@dataclass(frozen=True, kw_only=True)
class TrainedStep:
    """One step of a micro-batch: x_t and x_next (B, N, C) as stored, log_prob (B,) at the time of the rollout.

    mean: of the step (B, N, C), float32 or better, where the plan keeps means.
    """

    step: int
    x_t: Tensor
    x_next: Tensor
    log_prob: Tensor
    mean: Tensor | None = None

    def to(self, device: torch.device) -> TrainedStep:
        """The same on another device."""
        return self.moved(lambda tensor: tensor.to(device))

    def moved(self, move: Callable[[Tensor], Tensor]) -> TrainedStep:
        """The same with every tensor moved."""
        return replace(
            self,
            x_t=move(self.x_t),
            x_next=move(self.x_next),
            log_prob=move(self.log_prob),
            mean=None if self.mean is None else move(self.mean),
        )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Samples of one pair that went through the model together, and must do so again in training.

    unit: the number of the pair within the update, and of the samples within the group. tokens: the clean latents
    (B, N, C), float32.
    """

    pair: PromptPair
    unit: Unit
    steps: tuple[TrainedStep, ...]
    tokens: Tensor

    def sample_name(self, row: int) -> str:
        """The sample in words, for errors."""
        return f"sample {self.unit.samples[row]} of {self.pair.group_id}"

    def on_host(self) -> MicroBatch:
        """The same in host memory, where a whole update's trajectories have room; what two steps share stays shared."""
        moved: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            return moved.setdefault(id(tensor), tensor.to("cpu"))

        steps = tuple(step.moved(move) for step in self.steps)
        return replace(self, steps=steps, tokens=move(self.tokens))


def sampling_plan(
    config: RolloutConfig, times: Sequence[float], *, seed: int, update: int, keeps_means: bool = False
) -> SamplingPlan:
    """The plan of an update; which of its stochastic steps are trained is a seeded choice when not all are."""
    trained = list(config.steps_of(update))
    if config.trained_steps < len(trained):
        key = keyed_seed(seed=seed, stream="trained steps", update=update)
        order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(key)).tolist()
        trained = [trained[place] for place in order[: config.trained_steps]]
    return SamplingPlan(
        times=tuple(times),
        trained=frozenset(trained),
        solver=config.solver,
        noise_levels=config.noise_of_steps(update),
        keeps_means=keeps_means,
        update=update,
    )


@torch.no_grad()
def roll_out(
    policy: Policy,
    plan: SamplingPlan,
    conditioning: Conditioning,
    pair: PromptPair,
    unit: Unit,
    *,
    seed: int,
    update: int,
) -> MicroBatch:
    """Sample one micro-batch. All noise is keyed by (seed, update, pair, sample, step).

    conditioning: of the unit's samples, one row each. Raises ValueError naming the sample when a latent is not finite.
    """

    def noise(step: int) -> Tensor:
        drawn = [
            keyed_noise(
                policy.latent_shape,
                seed=seed,
                stream="rollout",
                update=update,
                group=pair.group_id,
                sample=sample,
                step=step,
            )
            for sample in unit.samples
        ]
        return torch.stack(drawn).to(policy.device)

    dtype = policy.storage_dtype
    steps: list[TrainedStep] = []
    x_t = noise(0).to(dtype)
    last = len(plan.times) - 2
    for step, (t, t_next) in enumerate(pairwise(plan.times)):
        v = policy.velocity(x_t, t, conditioning)
        if step in plan.noise_levels:
            gaussian = plan.gaussian(x_t, v, step)
            x_next = draw(gaussian, noise(step + 1), dtype)
            if step in plan.trained:
                steps.append(
                    TrainedStep(
                        step=step,
                        x_t=x_t,
                        x_next=x_next,
                        log_prob=plan.log_prob(x_next, gaussian),
                        mean=gaussian.mean if plan.keeps_means else None,
                    )
                )
        else:
            x_next = ode_step(x_t, v, t, t_next)
            x_next = x_next if step == last else x_next.to(dtype)
        x_t = x_next
    batch = MicroBatch(pair=pair, unit=unit, steps=tuple(steps), tokens=x_t)
    _check_finite(batch)
    return batch


def _check_finite(batch: MicroBatch) -> None:
    broken = (~tokens_are_finite(batch.tokens)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"rollout: the latent of {batch.sample_name(broken[0])} is not finite ({len(broken)} of "
            f"{len(batch.tokens)} in its micro-batch); {GENTLER_RUN}"
        )
