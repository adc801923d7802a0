"""divrl-train demo: the whole method on this computer."""

from __future__ import annotations

from pathlib import Path

import click

from .interruption import resumable
from .options import flag, number, output_folder, path, seed_option, threads_option


@click.command(short_help="The whole method on this computer, in minutes, with a report.")
@output_folder("runs/demo", "Folder of both runs, the LoRAs and the report.")
@seed_option("Seed of figures, noise and order.")
@threads_option()
@flag("--resume", "Go on with the demo in --output; with nothing there, begin it.")
@flag("--quick", "A few updates only: to see that it runs, not what it finds.")
@flag("--full", "The experiment: eight models, three seeds, hours; finished cells are never done twice.")
@number(
    "--seeds",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    default=3,
    help="With --full: how many seeds, from --seed on; one each can run side by side.",
)
@path(
    "--cells",
    metavar="FOLDER",
    absent="OUTPUT/cells",
    help="With --full: the folder of finished cells (docs/experiment/cells in a checkout).",
)
@number(
    "--minutes",
    metavar="MINUTES",
    kind=click.FloatRange(min=0, min_open=True),
    absent="to the end",
    help="With --full: begin no further cell after so long; the same command goes on from there.",
)
def demo(
    output: Path,
    seed: int,
    threads: int | None,
    resume: bool,
    quick: bool,
    full: bool,
    seeds: int,
    cells: Path | None,
    minutes: float | None,
) -> None:
    """Explore, then suppress, with the embedded pocket Kontext on a CPU; then a report of what changed.

    \b
    divrl-train demo
    divrl-train demo --full --output docs/experiment
    """
    if full:
        _full(output, range(seed, seed + seeds), threads, quick, cells, minutes)
        return
    given = [name for name, value in (("--cells", cells), ("--minutes", minutes)) if value is not None]
    if given:
        raise click.UsageError(f"{' and '.join(given)} belong to the experiment: add --full")
    from divrl_core.evaluation.demo import run_demo

    quickly = " --quick" if quick else ""
    with resumable(f"divrl-train demo --output {output} --seed {seed}{quickly} --resume"):
        run_demo(output, seed=seed, resume=resume, quick=quick, threads=threads)


def _full(
    output: Path,
    seeds: range,
    threads: int | None,
    quick: bool,
    cells: Path | None,
    minutes: float | None,
) -> None:
    if quick:
        raise click.UsageError("--full and --quick are opposites: leave one of them out")
    from divrl_core.evaluation.experiment import run_experiment
    from divrl_core.evaluation.experiment_plan import experiment_plan

    plans = [experiment_plan(seed=seed, threads=threads) for seed in seeds]
    with resumable("the same command"):
        page = run_experiment(output, plans, cells=cells, minutes=minutes)
    if page is not None:
        click.echo(f"wrote {page}")
