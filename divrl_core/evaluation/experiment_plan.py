"""The settings of the experiment: which models are compared, from where each starts, and how all are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..config import TrainConfig
from ..config_cfm import CfmConfig
from .demo_settings import DemoEvaluation, demo_plan

BASE = "base"
LINEAR_WEIGHTS = (0.2, 0.4, 0.6, 0.8)
EXPLORE_UPDATES, SUPPRESS_UPDATES, EVALUATE_EVERY = 8, 24, 8


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One trained model. `starts_from`: the arm whose best LoRA it goes on from; None = the base model."""

    name: str
    config: TrainConfig | CfmConfig
    starts_from: str | None = None


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """The arms of one seed in the order they are made, and the evaluation that the base and all of them go through."""

    seed: int
    arms: tuple[Arm, ...]
    evaluation: DemoEvaluation
    judged_as: TrainConfig
    """Model and reward backbone of the evaluation, for models that `judged_otherwise` does not name."""
    judged_otherwise: Mapping[str, TrainConfig] = field(default_factory=dict)
    shown: tuple[str, ...] = (BASE, "explore", "suppress")
    """The models whose pictures stand beside each other on the sheet."""
    sheet_references: int | None = None
    """How many references the sheet shows; None = all that were compared."""
    has_report: bool = True
    """Whether a seed's folder gets a report.html, which tells of base, explore and suppress alone."""

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.name == name)

    def judge(self, name: str) -> TrainConfig:
        """How a model is evaluated."""
        return self.judged_otherwise.get(name, self.judged_as)

    def line_of(self, name: str) -> tuple[Arm, ...]:
        """The arms that a model is made by, from the base on: none for the base, explore and suppress for suppress."""
        if name == BASE:
            return ()
        arm = self.arm(name)
        return (*(self.line_of(arm.starts_from) if arm.starts_from else ()), arm)

    @property
    def names(self) -> tuple[str, ...]:
        """Every model, the base first."""
        return (BASE, *(arm.name for arm in self.arms))


def experiment_plan(*, seed: int, threads: int | None) -> ExperimentPlan:
    """Explore and suppress as in the demo but for longer, and their rivals at the same compute: every other arm
    trains from the base for as many updates as both stages together.
    """
    demo = demo_plan(seed=seed, threads=threads, quick=False)
    whole = EXPLORE_UPDATES + SUPPRESS_UPDATES

    def rival(kind: Literal["vsm", "linear"], vsm_weight: float = 0.5) -> TrainConfig:
        reward = replace(demo.explore.reward, kind=kind, vsm_weight=vsm_weight)
        return replace(lengthened(demo.explore, whole), reward=reward, optim=demo.suppress.optim)

    explore = lengthened(demo.explore, EXPLORE_UPDATES)
    arms = (
        Arm(name="explore", config=explore),
        Arm(name="suppress", config=lengthened(demo.suppress, SUPPRESS_UPDATES), starts_from="explore"),
        Arm(name="vsm", config=rival("vsm")),
        *(Arm(name=linear_name(weight), config=rival("linear", weight)) for weight in LINEAR_WEIGHTS),
    )
    evaluation = replace(demo.evaluation, references=100, pictures=200)
    return ExperimentPlan(seed=seed, arms=arms, evaluation=evaluation, judged_as=explore)


def lengthened(config: TrainConfig, updates: int) -> TrainConfig:
    """The same run with so many updates, evaluated on the way, its products in bfloat16."""
    run = replace(
        config.run,
        updates=updates,
        eval_every_updates=EVALUATE_EVERY,
        save_every_updates=EVALUATE_EVERY,
        sample_every_updates=updates,
        eval_images=32,
        mixed_precision="bf16",
    )
    return replace(config, run=run)


def linear_name(vsm_weight: float) -> str:
    """The arm of the reward w VSM + (1 - w) nSSM."""
    return f"linear-{vsm_weight:g}"
