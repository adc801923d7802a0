"""The algorithms by name, behind one interface: the loop knows no other difference between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from ..config import TrainConfig
from .checkpoint import TrainState
from .encoded_pairs import EncodedPairs
from .judged import Judged
from .nft_update import NftLearner, nft_plan
from .policy import Policy
from .processes import Processes
from .rollout import MicroBatch, SamplingPlan, sampling_plan
from .stepper import Stepper
from .update import Learner


class LearnedStats(Protocol):
    """What an update of any algorithm says of itself."""

    @property
    def model_evaluations(self) -> int:
        """In training, over all processes: a forward of one sample counts 1, with its backward 3."""

    def row(self) -> dict[str, float]:
        """Its part of the row in metrics.jsonl."""


class AnyLearner(Protocol):
    """What a run needs of an algorithm."""

    def drawing(self) -> AbstractContextManager[None]:
        """Inside this block the policy that draws the samples answers."""

    def check(self, plan: SamplingPlan, encoded: EncodedPairs, batch: MicroBatch) -> None:
        """Check at the start of a run, on its first micro-batch, what must hold; raises ValueError."""

    def learn(
        self,
        plan: SamplingPlan,
        encoded: EncodedPairs,
        judged: Sequence[Judged],
        *,
        on_progress: Callable[[int], None],
    ) -> LearnedStats:
        """Make the update's optimizer steps; `on_progress(steps made)` is called before each micro-batch."""

    def kept(self) -> dict[str, Any]:
        """Fields of `TrainState` that are the algorithm's own."""


class PlanOf(Protocol):
    """How an update samples, from the settings, the schedule's times and the update's number."""

    def __call__(self, config: TrainConfig, times: Sequence[float], update: int) -> SamplingPlan: ...


class LearnerOf(Protocol):
    """The learner of a run that begins, or goes on from a state; `after_step` is called after each optimizer step."""

    def __call__(
        self,
        config: TrainConfig,
        policy: Policy,
        stepper: Stepper,
        processes: Processes,
        after_step: Callable[[], None],
        state: TrainState | None,
    ) -> AnyLearner: ...


class Algorithm(NamedTuple):
    """How an algorithm samples and how it learns."""

    plan: PlanOf
    learner: LearnerOf


def grpo_plan(config: TrainConfig, times: Sequence[float], update: int) -> SamplingPlan:
    """The rollout's stochastic steps, trained; means are kept where the objective compares them."""
    return sampling_plan(
        config.rollout, times, seed=config.run.seed, update=update, keeps_means=config.grpo.compares_means
    )


def grpo_learner(
    config: TrainConfig,
    policy: Policy,
    stepper: Stepper,
    processes: Processes,
    after_step: Callable[[], None],
    state: TrainState | None,
) -> Learner:
    """GRPO; it keeps nothing of its own."""
    return Learner(
        policy=policy, stepper=stepper, config=config.grpo, processes=processes, after_step=after_step
    )


def nft_learner(
    config: TrainConfig,
    policy: Policy,
    stepper: Stepper,
    processes: Processes,
    after_step: Callable[[], None],
    state: TrainState | None,
) -> NftLearner:
    """DiffusionNFT; the old policy's weights are in the transformer already."""
    return NftLearner(
        policy=policy,
        stepper=stepper,
        config=config.nft,
        groups=config.grpo,
        processes=processes,
        after_step=after_step,
        seed=config.run.seed,
        old_steps=0 if state is None else state.old_steps,
    )


ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {"grpo": Algorithm(grpo_plan, grpo_learner), "nft": Algorithm(nft_plan, nft_learner)}
)
