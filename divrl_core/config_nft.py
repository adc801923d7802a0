"""Settings of DiffusionNFT, the algorithm that learns from finished pictures alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from .settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class NftConfig(Settings):
    """The loss of DiffusionNFT (arXiv:2509.16117) and the old policy that draws its samples."""

    section: ClassVar[str] = "nft"

    advantage_scale: float = setting(
        5.0, "a: advantages from -a to a become r from 0 to 1, what lies beyond counts as a.", above=0
    )
    beta: float = setting(
        1.0,
        "b: how far v+ and v- lie from the old policy; small = big steps (0.1 with several rewards).",
        above=0,
    )
    kl_weight: float = setting(
        1e-4, "beta_ref: weight of (v - v_ref)^2; v_ref is grpo.kl_reference's.", at_least=0
    )
    times_per_sample: int = setting(
        3, "Times at which each sample is trained in an update.", unit="times", at_least=1
    )
    times: Literal["schedule", "uniform"] = setting(
        "schedule", "Where they lie: different ones of the rollout's schedule, or anywhere in [0, 1]."
    )
    noisy_rollout: bool = setting(
        False, "Draw samples with the rollout's stochastic steps too; false = plain ODE steps."
    )
    old_decay_rate: float = setting(
        0.001,
        "n optimizer steps into the run the old policy keeps a share of this times n, the rest is new.",
        unit="a step",
        at_least=0,
        at_most=1,
    )
    old_decay_most: float = setting(0.5, "The share that it keeps is at most this.", at_least=0, below=1)
