"""The settings of the experiment on rewards: explore and suppress with each measure of structure and kind of gate.

All arms have the demo's settings and differ in the reward alone. Penalties weigh as much against each structure: lambda
is smaller for `matched`, of which a true new pose has a fifth of its nSSM (docs/rewards.md).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ..config import BackboneConfig, RewardConfig, TrainConfig
from ..config_reward import HeldOutBackboneConfig, SecondBackboneConfig
from .demo_settings import demo_plan
from .experiment_plan import BASE, EXPLORE_UPDATES, SUPPRESS_UPDATES, Arm, ExperimentPlan, lengthened

FIGURES, PICTURES, WATCHED = 40, 80, 16
STRUCTURES: dict[Literal["nssm", "nssm_cropped", "matched"], float] = {
    "nssm": 10.0,
    "nssm_cropped": 10.0,
    "matched": 2.0,
}
"""The measures of structure with the penalty's weight for each."""

TWO_GATES = ("vsm>=0.97", "second.extent>=0.7")
DIVERSITY_WEIGHT, DIVERSITY_SCALE = 0.2, 0.15
GATED_TWICE, DIVERSE = "suppress-two-gates", "suppress-diverse"
ORDER = (
    BASE,
    *(f"{stage}-{structure}" for structure in STRUCTURES for stage in ("explore", "suppress")),
    GATED_TWICE,
    DIVERSE,
)


def reward_plan(*, seed: int, threads: int | None) -> ExperimentPlan:
    """Base; explore and suppress by each structure; suppress with two gates; that with diversity in the group too."""
    demo = demo_plan(seed=seed, threads=threads, quick=False)
    pocket = BackboneConfig(name="pocket")

    def stage(config: TrainConfig, updates: int, **reward: Any) -> TrainConfig:
        longer = lengthened(config, updates)
        run = replace(longer.run, eval_images=WATCHED)
        return replace(longer, run=run, reward=RewardConfig(backbone=pocket, **reward))

    arms: list[Arm] = []
    for structure, weight in STRUCTURES.items():
        explore, gated = f"explore-{structure}", f"suppress-{structure}"
        arms.append(
            Arm(name=explore, config=stage(demo.explore, EXPLORE_UPDATES, kind="nssm", structure=structure))
        )
        reward = {
            "kind": "gated",
            "structure": structure,
            "gates": ("vsm>=0.97",),
            "penalty_weight": weight,
        }
        arms.append(
            Arm(name=gated, config=stage(demo.suppress, SUPPRESS_UPDATES, **reward), starts_from=explore)
        )
    twice = stage(
        demo.suppress,
        SUPPRESS_UPDATES,
        kind="gated",
        structure="matched",
        gates=TWO_GATES,
        penalty_weight=STRUCTURES["matched"],
        second_backbone=SecondBackboneConfig(name="lite0"),
    )
    diverse = replace(
        twice,
        grpo=replace(twice.grpo, diversity_weight=DIVERSITY_WEIGHT, diversity_scale=DIVERSITY_SCALE),
    )
    arms += [
        Arm(name=GATED_TWICE, config=twice, starts_from="explore-matched"),
        Arm(name=DIVERSE, config=diverse, starts_from="explore-matched"),
    ]
    judge = lengthened(demo.explore, EXPLORE_UPDATES)
    judge = replace(
        judge, reward=replace(judge.reward, held_out_backbone=HeldOutBackboneConfig(name="lite0"))
    )
    return ExperimentPlan(
        seed=seed,
        arms=tuple(arms),
        evaluation=replace(demo.evaluation, references=FIGURES, pictures=PICTURES),
        judged_as=judge,
        shown=(BASE, "suppress-nssm", "suppress-nssm_cropped", "suppress-matched", GATED_TWICE, DIVERSE),
        sheet_references=3,
        has_report=False,
    )
