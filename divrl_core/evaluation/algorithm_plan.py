"""The settings of the experiment on algorithms: how fast each raises one and the same reward.

All start from the base and are paid by the same reward; rates were tuned for each by short runs (docs/algorithms.md).
They are compared by what they have reached after so many model evaluations, and after so many processor seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..config import TrainConfig
from .demo_settings import demo_plan
from .experiment_plan import BASE, Arm, ExperimentPlan, lengthened

UPDATES, EVERY = 6, 2
FIGURES, PICTURES, WATCHED = 40, 40, 24
RATE, RATE_OF_MANY_STEPS = 1.4e-3, 6e-4
FIRST_TWO, ALL = (0, 1), (0, 1, 2, 3, 4)

ARMS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "first-two": {},
    "all-steps": {"rollout": {"stochastic_steps": ALL}},
    "sliding": {
        "rollout": {"stochastic_steps": ALL, "window_size": 2, "window_every_updates": 3},
    },
    "one-of-two": {"rollout": {"trained_steps_per_update": 1}},
    "cps": {"rollout": {"solver": "cps"}},
    "kl-early": {"grpo": {"kl_weight": 0.01, "kl_steps": 1}},
    "clip-5": {"grpo": {"optimizer_steps_per_rollout": 5}, "optim": {"lr": RATE_OF_MANY_STEPS}},
    "dppo-5": {
        "grpo": {"optimizer_steps_per_rollout": 5, "objective": "dppo"},
        "optim": {"lr": RATE_OF_MANY_STEPS},
    },
    "nft": {"nft": {"noisy_rollout": True}},
}
"""What differs from the demo's explore at `RATE`, by arm: first-two is the demo's own noise, in the first two steps."""

ORDER = (BASE, *ARMS)


def algorithm_plan(*, seed: int, threads: int | None) -> ExperimentPlan:
    """The base and every algorithm from it, paid for nSSM."""
    demo = demo_plan(seed=seed, threads=threads, quick=False)
    longer = lengthened(demo.explore, UPDATES)
    run = replace(longer.run, eval_every_updates=EVERY, save_every_updates=EVERY, eval_images=WATCHED)
    common = replace(longer, run=run, optim=replace(longer.optim, lr=RATE))
    return ExperimentPlan(
        seed=seed,
        arms=tuple(Arm(name=name, config=_changed(common, name, changes)) for name, changes in ARMS.items()),
        evaluation=replace(demo.evaluation, references=FIGURES, pictures=PICTURES),
        judged_as=common,
        shown=ORDER,
        sheet_references=1,
        has_report=False,
    )


def _changed(config: TrainConfig, name: str, changes: Mapping[str, Mapping[str, Any]]) -> TrainConfig:
    rollout, grpo, nft, optim = (dict(changes.get(key, {})) for key in ("rollout", "grpo", "nft", "optim"))
    return replace(
        config,
        algorithm="nft" if name == "nft" else "grpo",
        rollout=replace(config.rollout, **rollout) if rollout else config.rollout,
        grpo=replace(config.grpo, **grpo) if grpo else config.grpo,
        nft=replace(config.nft, **nft) if nft else config.nft,
        optim=replace(config.optim, **optim) if optim else config.optim,
    )
