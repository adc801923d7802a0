"""An update's experience: rollouts of its groups, their rewards, and what each sample is worth within its group."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config import GrpoConfig
from ..rewards.gate import Reward
from ..rewards.novelty import novelty_bonus
from ..rl.advantage import Advantages, group_advantages
from .encoded_pairs import EncodedPairs
from .judged import Judged
from .placement import Unit, units_of_process
from .policy import Policy
from .processes import Processes
from .references import PromptPair, ReferenceSet
from .reward_queue import RewardQueue
from .rewarding import Rewarder
from .rollout import MicroBatch, SamplingPlan, roll_out

PARTS = ("total", "nssm", "vsm", "gap")  # and what else the reward measures, by name


@dataclass(frozen=True, kw_only=True)
class Experience:
    """What one update learns from.

    judged: this process's micro-batches. reward and advantages: of all samples of all processes, group by group, on the
    CPU. seconds: what this process spent on rollouts, and what it waited for rewards.
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
    processes: Processes,
    *,
    seed: int,
    update: int,
    on_progress: Callable[[int, int], None],
) -> Experience:
    """Roll out and score this process's share of the groups, then judge them beside everybody else's.

    `on_progress(made, count)` is called before each micro-batch. Raises ValueError when too few samples have a
    reward, or when a latent or a reward is not finite.
    """
    started = time.perf_counter()
    mine = units_of_process(
        processes.index,
        processes.count,
        groups=len(pairs),
        group_size=config.group_size,
        micro_batch=config.micro_batch,
        shares=config.optimizer_steps_per_rollout,
        whole_groups=rewarder.wants_groups,
        in_lockstep=processes.in_lockstep,
    )
    batches: list[MicroBatch] = []
    with RewardQueue(rewarder) as queue:
        pictures: list[Tensor] = []  # of one group, where the reward wants them all at once
        for made, unit in enumerate(mine):
            on_progress(made, len(mine))
            pair = pairs[unit.group]
            conditioning = encoded.conditioning([pair]).repeat(len(unit.samples))
            batch = roll_out(policy, plan, conditioning, pair, unit, seed=seed, update=update)
            batches.append(batch.on_host())
            if unit.is_stand_in:
                continue
            pictures.append(policy.decode(batch.tokens))
            if not rewarder.wants_groups or unit.samples[-1] == config.group_size - 1:
                queue.submit(torch.cat(pictures), references, pair)
                pictures = []
        rewards = queue.collect()
        waited = queue.waited_seconds
    rollout_seconds = time.perf_counter() - started - waited

    reward = _of_all_processes(rewards, mine, config, len(pairs), processes, rewarder.more_names)
    group_index = torch.arange(len(pairs)).repeat_interleave(config.group_size)
    advantages = group_advantages(
        reward.total,
        group_index,
        std_over=config.advantage_std,
        clamp=config.advantage_clamp,
        min_std=config.min_group_std,
    )
    if config.diversity_weight:
        values = novelty_bonus(
            advantages.values,
            reward.more["novelty"],
            reward.gap == 0,
            group_index,
            weight=config.diversity_weight,
        )
        advantages = replace(advantages, values=values)
    _check_enough_valid(advantages, reward, config.min_valid_fraction, rewarder, processes)
    return Experience(
        judged=tuple(_judged(batch, advantages, config.group_size) for batch in batches),
        reward=reward,
        advantages=advantages,
        rollout_seconds=rollout_seconds,
        reward_seconds=waited,
    )


def _of_all_processes(
    rewards: Sequence[Reward],
    units: Sequence[Unit],
    config: GrpoConfig,
    groups: int,
    processes: Processes,
    more_names: Sequence[str],
) -> Reward:
    """Rewards of all samples of all processes, group by group, on the CPU.

    Every sample is some process's own, so the sum over processes puts them together; NaN stays NaN.
    """
    places = [
        unit.group * config.group_size + sample
        for unit in units
        if not unit.is_stand_in
        for sample in unit.samples
    ]
    whole = torch.zeros(len(PARTS) + len(more_names), groups * config.group_size, dtype=torch.float32)
    if rewards:
        rows = [[getattr(reward, part) for reward in rewards] for part in PARTS]
        rows += [[reward.more[name] for reward in rewards] for name in more_names]
        whole[:, places] = torch.stack([torch.cat([one.float().cpu() for one in row]) for row in rows])
    summed = processes.sum(whole)
    return Reward(
        **dict(zip(PARTS, summed[: len(PARTS)], strict=True)),
        more=dict(zip(more_names, summed[len(PARTS) :], strict=True)),
    )


def _judged(batch: MicroBatch, advantages: Advantages, group_size: int) -> Judged:
    """A micro-batch with its own advantages; nothing of a stand-in counts."""
    places = [batch.unit.group * group_size + sample for sample in batch.unit.samples]
    valid = advantages.valid[places]
    return Judged(
        batch=batch,
        advantages=advantages.values[places],
        valid=torch.zeros_like(valid) if batch.unit.is_stand_in else valid,
    )


def _check_enough_valid(
    advantages: Advantages,
    reward: Reward,
    min_valid_fraction: float,
    rewarder: Rewarder,
    processes: Processes,
) -> None:
    valid, count = int(advantages.valid.sum()), len(advantages.valid)
    if valid >= max(1, min_valid_fraction * count):
        return
    trouble = next(filter(None, processes.gather([rewarder.trouble])), "")
    without_nssm = int((~torch.isfinite(reward.nssm)).sum())
    without_vsm = int((~torch.isfinite(reward.vsm)).sum())
    raise ValueError(
        f"rewards: only {valid} of {count} samples have a defined reward (nSSM is undefined for "
        f"{without_nssm}, VSM for {without_vsm}), grpo.min_valid_fraction asks for "
        f"{min_valid_fraction:g}; "
        + (trouble or "look at the samples, at the masks, and at reward.backbone.tau_s")
    )
