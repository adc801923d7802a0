"""The demo's settings: what a small computer can do in minutes with the pocket model. Tuned by hand,
nothing hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import (
    BackboneConfig,
    DataConfig,
    GrpoConfig,
    LoraConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    TrainConfig,
)


@dataclass(frozen=True, kw_only=True)
class DemoEvaluation:
    """The last evaluation, which all three models go through.

    seed: of figures and noise. It is neither the seed of training nor the one that a run's own held-out
    figures are always drawn with, 0, so that neither training nor the choice of the best LoRA has seen
    these figures. references: how many. pictures: how many for each model. steps: of
    sampling. shown_references, shown_pictures: rows and columns of the comparison.
    """

    seed: int
    references: int
    pictures: int
    steps: int
    shown_references: int
    shown_pictures: int


@dataclass(frozen=True, kw_only=True)
class DemoPlan:
    """Both stages and the evaluation. `suppress` begins from whatever LoRA explore leaves: its init_lora
    is replaced.
    """

    explore: TrainConfig
    suppress: TrainConfig
    evaluation: DemoEvaluation


def demo_plan(*, seed: int, threads: int | None, quick: bool) -> DemoPlan:
    """The plan of `divrl-train demo`; `quick` only shows that everything runs."""
    return DemoPlan(
        explore=explore_config(seed=seed, threads=threads, quick=quick),
        suppress=suppress_config(seed=seed, threads=threads, quick=quick),
        evaluation=evaluation_settings(seed=seed, quick=quick),
    )


def explore_config(*, seed: int, threads: int | None, quick: bool) -> TrainConfig:
    """Stage 1 of the demo."""
    return TrainConfig.explore(
        model=_MODEL,
        lora=LoraConfig(rank=16),
        data=_data(quick),
        reward=RewardConfig(kind="nssm", structure="nssm", backbone=_BACKBONE),
        rollout=_ROLLOUT,
        grpo=_grpo(quick),
        optim=OptimConfig(lr=7e-4, ema_decay=0.8),
        run=_run(2 if quick else 8, 4, seed, threads, quick),
    )


def suppress_config(*, seed: int, threads: int | None, quick: bool) -> TrainConfig:
    """Stage 2 of the demo. The gate lies just below what true pictures of a figure in another stance have by this
    backbone, .98, and the base's own .99 (docs/calibration.md). The weight was chosen in short trials
    (docs/pocket.md): with less of it broken pictures pay, with more the policy goes back to copying.
    """
    return TrainConfig.suppress(
        init_lora="explore",
        model=_MODEL,
        lora=LoraConfig(rank=16),
        data=_data(quick),
        reward=RewardConfig(
            kind="gated", structure="nssm", gate=0.97, penalty_weight=10.0, backbone=_BACKBONE
        ),
        rollout=_ROLLOUT,
        grpo=_grpo(quick),
        optim=OptimConfig(lr=5e-4, ema_decay=0.8),
        run=_run(2 if quick else 16, 8, seed, threads, quick),
    )


def evaluation_settings(*, seed: int, quick: bool) -> DemoEvaluation:
    """The demo's last evaluation."""
    return DemoEvaluation(
        seed=seed + 1_000_003,
        references=3 if quick else 24,
        pictures=6 if quick else 48,
        steps=6 if quick else 28,
        shown_references=2 if quick else 5,
        shown_pictures=2 if quick else 4,
    )


_MODEL = ModelConfig(path="pocket", gradient_checkpointing=False)
_BACKBONE = BackboneConfig(name="pocket")

# Noise in the first two steps alone, where the pose is decided: later noise takes the pocket's pictures apart, and CPS
# lets them hardly differ within a group (docs/pocket.md).
_ROLLOUT = RolloutConfig(solver="flow_sde", noise_level=0.8, stochastic_steps=(0, 1))


def _data(quick: bool) -> DataConfig:
    return DataConfig(source="pocket", held_out_references=2 if quick else 16)


def _grpo(quick: bool) -> GrpoConfig:
    if quick:
        return GrpoConfig(group_size=4, groups_per_update=2, micro_batch=4, clip_range=1e-3)
    return GrpoConfig(group_size=10, groups_per_update=5, micro_batch=10, clip_range=1e-3)


def _run(updates: int, every: int, seed: int, threads: int | None, quick: bool) -> RunConfig:
    return RunConfig(
        updates=updates,
        seed=seed,
        threads=threads,
        sample_every_updates=updates,
        eval_every_updates=updates if quick else every,
        save_every_updates=updates if quick else every,
        eval_images=4 if quick else 16,
        eval_steps=6 if quick else 28,
        sample_steps=6 if quick else 28,
        sample_references=2 if quick else 4,
    )
