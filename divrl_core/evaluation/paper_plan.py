"""The paper's ablations at pocket scale as experiments: one a question, all with the same explore behind them.

All arms have the demo's settings but for what the question changes, and are judged alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from ..config import TrainConfig
from .demo_settings import demo_plan
from .experiment_plan import EXPLORE_UPDATES, SUPPRESS_UPDATES, Arm, ExperimentPlan, lengthened
from .paper_questions import EXPLORE, QUESTIONS, SUPPRESS, Changes

FIGURES, PICTURES, WATCHED = 40, 80, 16


def paper_plan(question: str, *, seed: int, threads: int | None) -> ExperimentPlan:
    """The models of one question."""
    asked, demo = QUESTIONS[question], demo_plan(seed=seed, threads=threads, quick=False)
    gate = f"vsm>={demo.suppress.reward.gate:g}"
    suppress = replace(demo.suppress, reward=replace(demo.suppress.reward, gate=None, gates=(gate,)))
    return ExperimentPlan(
        seed=seed,
        arms=tuple(
            _arm(name, asked.changed, name in asked.from_base, demo.explore, suppress)
            for name in asked.changed
        ),
        evaluation=replace(demo.evaluation, references=FIGURES, pictures=PICTURES),
        judged_as=lengthened(demo.explore, EXPLORE_UPDATES),
        shown=asked.order,
        sheet_references=1,
        has_report=False,
    )


PLANS = {name: partial(paper_plan, name) for name in QUESTIONS}


def _arm(
    name: str, changed: Mapping[str, Changes], is_from_base: bool, explore: TrainConfig, suppress: TrainConfig
) -> Arm:
    if name.startswith(EXPLORE):
        return Arm(name=name, config=_run(explore, EXPLORE_UPDATES, changed[name]))
    if is_from_base:
        alone = replace(
            suppress,
            stage="explore",
            grpo=replace(suppress.grpo, kl_reference="base"),
            run=replace(suppress.run, init_lora=None),
        )
        return Arm(name=name, config=_run(alone, EXPLORE_UPDATES + SUPPRESS_UPDATES, changed[name]))
    own = name.replace(SUPPRESS, EXPLORE, 1)
    start = own if own in changed else EXPLORE
    return Arm(name=name, config=_run(suppress, SUPPRESS_UPDATES, changed[name]), starts_from=start)


def _run(config: TrainConfig, updates: int, changes: Changes) -> TrainConfig:
    longer = lengthened(config, updates)
    sections = {section: replace(getattr(longer, section), **values) for section, values in changes.items()}
    return replace(longer, run=replace(longer.run, eval_images=WATCHED), **sections)
