"""What `demo` would do: updates, pictures and cells, counted; nothing is loaded or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .dry_run import planned_lines, print_dry_run
from .stage import plan_lines


def tell_demo(output: Path, *, seed: int, resume: bool, quick: bool) -> None:
    """The two stages and the evaluation. Raises ValueError where the demo itself would refuse the folder."""
    from divrl_core.evaluation.demo import check_demo
    from divrl_core.evaluation.demo_settings import demo_plan

    goes_on = check_demo(output, seed=seed, resume=resume, quick=quick)
    plan = demo_plan(seed=seed, threads=None, quick=quick)
    lines = [f"{'goes on with' if goes_on else 'begins'} the demo of seed {seed} in {output}"]
    for config in (plan.explore, plan.suppress):
        lines += ["", f"{config.stage}:", *(f"  {line}" for line in plan_lines(config))]
    judged = plan.evaluation
    lines += [
        "",
        f"evaluation: {judged.pictures} pictures of {judged.references} references by each of 3 models, "
        f"{judged.steps} steps: {3 * judged.pictures * judged.steps} forwards",
        "",
        *planned_lines(plan.suppress, {}, preset=None, processes=1, sharded=False),
    ]
    print_dry_run(lines, output=f"{output}: two run folders, pictures, summary.json, report.html")


def tell_experiment(output: Path, seeds: Sequence[int], cells: Path | None, *, is_cfm: bool) -> None:
    """The cells that are not done yet. Raises ValueError where the experiment itself would refuse the folder."""
    from divrl_core.evaluation.cfm_plan import cfm_plan
    from divrl_core.evaluation.experiment import missing_cells
    from divrl_core.evaluation.experiment_plan import experiment_plan

    make = cfm_plan if is_cfm else experiment_plan
    plans = [make(seed=seed, threads=None) for seed in seeds]
    missing = missing_cells(output, plans, cells)
    total = sum(len(plan.names) for plan in plans)
    lines = [f"cells: {total} for {len(plans)} seeds, {sum(map(len, missing.values()))} not done yet"]
    for plan in plans:
        names = missing[plan.seed]
        lines.append(f"  seed {plan.seed}: {', '.join(names) if names else 'all done'}")
        updates = sum(arm.config.run.updates for arm in plan.arms if arm.name in names)
        pictures = len(names) * plan.evaluation.pictures
        lines.append(f"    {updates} updates, {pictures} pictures of the last evaluation")
    print_dry_run(lines, output=f"{cells or output / 'cells'}, and tables and figures in {output}")
