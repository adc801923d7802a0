"""divrl-train experiment: many models, several seeds, hours; finished cells are never made again."""

from __future__ import annotations

from pathlib import Path

import click

from .dry_run import print_dry_run
from .interruption import resumable
from .options import flag, number, path, seed_option, threads_option

PAPERS = ("threshold", "lambda", "features", "backbone", "kl", "advantages", "start", "chance")
FOLDERS = {
    "stages": "docs/experiment",
    "cfm": "docs/cfm",
    "rewards": "docs/rewards-experiment",
    "algorithms": "docs/algorithms-experiment",
    **dict.fromkeys(PAPERS, "docs/paper-experiments"),
}


@click.command(short_help="The measured experiments of the documentation; hours.")
@click.argument("name", metavar="NAME", type=click.Choice(list(FOLDERS)))
@path(
    "--output",
    metavar="FOLDER",
    absent="the experiment's own in docs/",
    help="Folder of runs, tables and figures.",
)
@seed_option("The first seed of figures, noise and order.")
@number(
    "--seeds",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    default=3,
    help="How many seeds, from --seed on; one each can run side by side.",
)
@threads_option()
@path("--cells", metavar="FOLDER", absent="OUTPUT/cells", help="The folder of finished cells.")
@number(
    "--minutes",
    metavar="MINUTES",
    kind=click.FloatRange(min=0, min_open=True),
    absent="to the end",
    help="Begin no further cell after so long; the same command goes on from there.",
)
@flag("--dry-run", "Tell which cells are not done yet; load and write nothing.")
def experiment(
    name: str,
    output: Path | None,
    seed: int,
    seeds: int,
    threads: int | None,
    cells: Path | None,
    minutes: float | None,
    dry_run: bool,
) -> None:
    """Train and judge every model of an experiment that is not done yet, then write its tables and figures.

    \b
    stages      explore, suppress and their rivals at the same compute
    cfm         masked flow matching: ablations, and RL on top
    rewards     explore and suppress by each measure of structure and kind of gate
    algorithms  Flow-GRPO, its windows, Flow-DPPO, DiffusionNFT: one reward against compute
    threshold, lambda, features, backbone  the paper's ablations
    kl, advantages, start, chance          ours; these eight share a folder, and explore's cells

    A model of a seed is a cell, one file; it is not made again while its settings and the pocket model stay the same.

    \b
    divrl-train experiment rewards --seed 1 --seeds 1 --minutes 60
    """
    folder = output or Path(FOLDERS[name])
    if dry_run:
        _tell(name, folder, range(seed, seed + seeds), cells)
        return

    from divrl_core.evaluation.experiment import run_experiment
    from divrl_core.evaluation.experiments import EXPERIMENTS

    chosen = EXPERIMENTS[name]
    plans = [chosen.plan(seed=each, threads=threads) for each in range(seed, seed + seeds)]
    with resumable("the same command"):
        page = run_experiment(folder, plans, cells=cells, minutes=minutes, write=chosen.write)
    if page is not None:
        click.echo(f"wrote {page}")


def _tell(name: str, output: Path, seeds: range, cells: Path | None) -> None:
    """The cells that are not done yet. Raises ValueError where the experiment itself would refuse the folder."""
    from divrl_core.evaluation.experiment import missing_cells
    from divrl_core.evaluation.experiments import EXPERIMENTS

    plans = [EXPERIMENTS[name].plan(seed=seed, threads=None) for seed in seeds]
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
