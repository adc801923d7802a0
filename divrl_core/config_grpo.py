"""The settings of groups, advantages and the policy loss.

Imported through `config.py`, which gathers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class GrpoConfig(Settings):
    """Groups, advantages and the policy loss."""

    section: ClassVar[str] = "grpo"

    group_size: int = setting(21, "Samples of one (reference, prompt) pair.", unit="samples", at_least=2)
    groups_per_update: int = setting(16, "Pairs in an update.", unit="groups", at_least=1)
    micro_batch: int = setting(
        3,
        "Samples in one forward, at most: each group is cut into the fewest parts of nearly equal size.",
        unit="samples",
        at_least=1,
    )
    objective: Literal["clip", "dppo"] = setting(
        "clip", "What keeps a step small: the ratio clip of eq. 2, or the divergence of Flow-DPPO."
    )
    clip_range: float = setting(
        1e-4, "c of eq. 2: the ratio counts within 1 - c and 1 + c.", above=0, below=1
    )
    dppo_threshold: float = setting(
        1e-5,
        "tau of objective dppo: a sample this far from the rollout's policy, and going further, is dropped.",
        above=0,
    )
    kl_weight: float = setting(
        0.0, "beta of eq. 2 (the paper says 0.1, its public configuration 0).", at_least=0
    )
    kl_steps: int | None = setting(
        None,
        "KL at the trained steps below this index alone, the noisiest; null = at all of them.",
        at_least=1,
    )
    kl_kind: Literal["mean", "velocity"] = setting(
        "mean", "KL between the steps' Gaussians, or of the velocities."
    )
    kl_reference: Literal["base", "init"] = setting(
        "base", "The policy KL holds on to: the base model, or the LoRA in run.init_lora."
    )
    advantage_std: Literal["group", "batch"] = setting(
        "group", "Spread that rewards are divided by (eq. 1: group)."
    )
    advantage_clamp: float = setting(5.0, "Advantages are cut to plus and minus this.", unit="std", above=0)
    min_group_std: float = setting(
        1e-4, "A group whose rewards vary less teaches nothing.", unit="reward", at_least=0
    )
    min_valid_fraction: float = setting(
        0.5, "Stop when fewer of an update's samples have a defined reward.", at_least=0, at_most=1
    )
    diversity_weight: float = setting(
        0.0,
        "lambda of the diversity within a group, added to the advantage of samples that pass the gate and did better "
        "than their group; .1 to .3.",
        at_least=0,
    )
    diversity_scale: float = setting(
        0.4, "h of that diversity: structural distance at which two pictures are half strangers.", above=0
    )
    optimizer_steps_per_rollout: int = setting(
        1, "Optimizer steps made from one rollout's samples.", at_least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.optimizer_steps_per_rollout > self.groups_per_update:
            raise ValueError(
                "grpo.optimizer_steps_per_rollout must be at most grpo.groups_per_update, each step learns from whole "
                f"groups: got {self.optimizer_steps_per_rollout} and {self.groups_per_update}"
            )

    @property
    def compares_means(self) -> bool:
        """Whether the objective needs the means of the rollout's steps."""
        return self.objective == "dppo"

    @property
    def samples_per_update(self) -> int:
        """Pictures sampled and scored in an update."""
        return self.group_size * self.groups_per_update
