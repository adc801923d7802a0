"""An update's experience: rollouts of its groups, their rewards, and what each sample is worth within its group."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ..config import GrpoConfig
from ..rewards.gate import Reward
from ..rl.advantage import Advantages, group_advantages
from .encoded_pairs import EncodedPairs
from .policy import Policy
from .references import PromptPair, ReferenceSet
from .rewarding import Rewarder
from .rollout import MicroBatch, SamplingPlan, roll_out_group
from .update import Judged

PARTS = ("total", "nssm", "vsm", "gap")


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What one update learns from.

    judged: this process's micro-batches. reward and advantages: of all samples of all processes, on the CPU.
    seconds: spent on rollouts and on rewards.
    """

    judged: tuple[Judged, ...]
    reward: Reward
    advantages: Advantages
    rollout_seconds: float
    reward_seconds: float


def gather_experience(
    policy: Policy,
    plan: SamplingPlan,
    encoded: EncodedPairs,
    rewarder: Rewarder,
    references: ReferenceSet,
    pairs: Sequence[PromptPair],
    config: GrpoConfig,
    accelerator: Accelerator,
    *,
    seed: int,
    update: int,
    on_progress: Callable[[int], None],
) -> Experience:
    """Roll out and score this process's share of the groups, then judge them beside everybody else's.

    `on_progress(group)` is called before each micro-batch. Raises ValueError when too few samples have a
    reward, or when a latent or a reward is not finite.
    """
    mine = list(enumerate(pairs))[accelerator.process_index :: accelerator.num_processes]
    batches: list[MicroBatch] = []
    rewards: list[Reward] = []
    rollout_seconds = reward_seconds = 0.0
    for place, (group, pair) in enumerate(mine):
        group_batches = roll_out_group(
            policy,
            plan,
            encoded,
            pair,
            group=group,
            group_size=config.group_size,
            micro_batch=config.micro_batch,
            seed=seed,
            update=update,
        )
        started = time.perf_counter()
        on_progress(place)
        for batch in group_batches:
            between = time.perf_counter()
            rewards.append(rewarder.reward(policy.decode(batch.tokens), references, pair.reference_id))
            batches.append(batch)
            scored = time.perf_counter()
            rollout_seconds += between - started
            reward_seconds += scored - between
            started = scored
            on_progress(place)

    reward, group_index = _of_all_processes(rewards, batches, accelerator)
    advantages = group_advantages(
        reward.total,
        group_index,
        std_over=config.advantage_std,
        clamp=config.advantage_clamp,
        min_std=config.min_group_std,
    )
    _check_enough_valid(advantages, reward, config.min_valid_fraction)
    return Experience(
        judged=_judge(batches, advantages, accelerator),
        reward=reward,
        advantages=advantages,
        rollout_seconds=rollout_seconds,
        reward_seconds=reward_seconds,
    )


def _of_all_processes(
    rewards: Sequence[Reward], batches: Sequence[MicroBatch], accelerator: Accelerator
) -> tuple[Reward, Tensor]:
    """Rewards and group numbers of all samples, process after process, on the CPU."""
    parts = {part: torch.cat([getattr(reward, part).float() for reward in rewards]) for part in PARTS}
    numbers = [number for batch in batches for number in [batch.group] * len(batch.samples)]
    group_index = torch.tensor(numbers, device=accelerator.device)
    if accelerator.num_processes > 1:
        parts = {part: accelerator.gather(values.to(accelerator.device)) for part, values in parts.items()}  # type: ignore[misc]
        group_index = accelerator.gather(group_index)  # type: ignore[assignment]
    return Reward(**{part: values.cpu() for part, values in parts.items()}), group_index.cpu()


def _judge(
    batches: Sequence[MicroBatch], advantages: Advantages, accelerator: Accelerator
) -> tuple[Judged, ...]:
    """This process's micro-batches with their own advantages, on the device of their latents."""
    start = accelerator.process_index * sum(len(batch.samples) for batch in batches)
    judged = []
    for batch in batches:
        rows = slice(start, start + len(batch.samples))
        start = rows.stop
        device = batch.tokens.device
        judged.append(
            Judged(
                batch=batch,
                advantages=advantages.values[rows].to(device),
                valid=advantages.valid[rows].to(device),
            )
        )
    return tuple(judged)


def _check_enough_valid(advantages: Advantages, reward: Reward, min_valid_fraction: float) -> None:
    valid, count = int(advantages.valid.sum()), len(advantages.valid)
    if valid >= max(1, min_valid_fraction * count):
        return
    without_nssm = int((~torch.isfinite(reward.nssm)).sum())
    without_vsm = int((~torch.isfinite(reward.vsm)).sum())
    raise ValueError(
        f"rewards: only {valid} of {count} samples have a defined reward (nSSM is undefined for "
        f"{without_nssm}, VSM for {without_vsm}), grpo.min_valid_fraction asks for "
        f"{min_valid_fraction:g}; look at the samples, at the masks, and at reward.backbone.tau_s"
    )
