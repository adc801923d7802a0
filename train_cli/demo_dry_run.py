"""What `demo` would do: updates and pictures, counted; nothing is loaded or written."""

from __future__ import annotations

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
