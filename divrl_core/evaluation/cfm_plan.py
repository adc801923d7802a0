"""The settings of the second experiment: masked conditional flow matching, its ablations, and RL on top of it.

All train LoRAs of one rank on the pocket's text-to-image base, on the same pairs in the same order, for the same number
of updates. `text-only` sees no reference: what it gains is drawing, not identity.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import LoraConfig, ModelConfig, TrainConfig
from ..config_cfm import CfmConfig, CfmDataConfig, CfmOptimConfig, CfmRunConfig, ObjectiveConfig
from .demo_settings import demo_plan
from .experiment_plan import BASE, Arm, ExperimentPlan, lengthened

MASKED, FULL, TEXT_ONLY = "masked", "full", "text-only"
ATTENTION, MODULATION = "attention", "modulation"
UPDATES, BATCH, RANK = 600, 32, 32
EXPLORE_UPDATES, SUPPRESS_UPDATES = 8, 16
FIGURES, PICTURES = 50, 100


def cfm_plan(*, seed: int, threads: int | None) -> ExperimentPlan:
    """Base, text-only control, masked and full loss, the other two sets of layers, then explore and suppress."""
    whole = "attention+ffn"
    stages = demo_plan(seed=seed, threads=threads, quick=False)

    def cfm(targets: str = whole, loss: str = MASKED, layout: str = "width") -> CfmConfig:
        return CfmConfig(
            model=_model(layout),
            lora=LoraConfig(rank=RANK, alpha=float(RANK), targets=targets),
            data=CfmDataConfig(held_out_pairs=64),
            objective=ObjectiveConfig(loss=loss, batch_size=BATCH, time_mean=0.2),  # type: ignore[arg-type]
            optim=CfmOptimConfig(lr=1e-3, warmup_updates=30),
            run=CfmRunConfig(
                updates=UPDATES,
                seed=seed,
                threads=threads,
                validate_every_updates=100,
                save_every_updates=50,
                sample_every_updates=UPDATES,
                mixed_precision="bf16",
            ),
        )

    def stage(config: TrainConfig, updates: int) -> TrainConfig:
        lora = LoraConfig(rank=RANK, alpha=float(RANK), targets=whole)
        return replace(lengthened(config, updates), model=_model("width"), lora=lora)

    def judge(targets: str, layout: str) -> TrainConfig:
        return replace(
            stage(stages.explore, 1),
            model=_model(layout),
            lora=LoraConfig(rank=RANK, alpha=float(RANK), targets=targets),
        )

    arms = (
        Arm(name=TEXT_ONLY, config=cfm(layout="none")),
        Arm(name=MASKED, config=cfm()),
        Arm(name=FULL, config=cfm(loss=FULL)),
        Arm(name="explore", config=stage(stages.explore, EXPLORE_UPDATES), starts_from=MASKED),
        Arm(name="suppress", config=stage(stages.suppress, SUPPRESS_UPDATES), starts_from="explore"),
        Arm(name=ATTENTION, config=cfm(targets="attention")),
        Arm(name=MODULATION, config=cfm(targets="attention+ffn+modulation")),
    )
    return ExperimentPlan(
        seed=seed,
        arms=arms,
        evaluation=replace(stages.evaluation, references=FIGURES, pictures=PICTURES),
        judged_as=judge(whole, "width"),
        judged_otherwise={
            BASE: judge(whole, "none"),
            TEXT_ONLY: judge(whole, "none"),
            ATTENTION: judge("attention", "width"),
            MODULATION: judge("attention+ffn+modulation", "width"),
        },
        shown=(BASE, TEXT_ONLY, MASKED, FULL, "explore", "suppress"),
        sheet_references=2,
        has_report=False,
    )


def _model(layout: str) -> ModelConfig:
    return ModelConfig(
        path="pocket-text-to-image",
        layout=layout,  # type: ignore[arg-type]
        guidance_scale=1.0,
        gradient_checkpointing=False,
    )
