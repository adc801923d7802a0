"""The experiments by name: what each compares, its settings, and who writes its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .algorithm_plan import algorithm_plan
from .algorithm_report import write_algorithm_report
from .cfm_plan import cfm_plan
from .cfm_report import write_cfm_report
from .experiment_plan import ExperimentPlan, experiment_plan
from .experiment_report import write_experiment_report
from .paper_plan import PLANS
from .paper_report import WRITERS
from .reward_plan import reward_plan
from .reward_report import write_reward_report


@dataclass(frozen=True)
class Experiment:
    """`plan(seed=, threads=)` gives the settings of a seed, `write(cells, output)` the page of all that is done."""

    plan: Callable[..., ExperimentPlan]
    write: Callable[[Path, Path], Path | None]


EXPERIMENTS = {
    "stages": Experiment(experiment_plan, write_experiment_report),
    "cfm": Experiment(cfm_plan, write_cfm_report),
    "rewards": Experiment(reward_plan, write_reward_report),
    "algorithms": Experiment(algorithm_plan, write_algorithm_report),
    **{name: Experiment(PLANS[name], WRITERS[name]) for name in PLANS},
}
