"""divrl-train demo: the whole method on this computer."""

from __future__ import annotations

from pathlib import Path

import click

from .demo_dry_run import tell_demo, tell_experiment
from .interruption import resumable
from .options import flag, number, output_folder, path, seed_option, threads_option


@click.command(short_help="The whole method on this computer, in minutes, with a report.")
@output_folder("runs/demo", "Folder of both runs, the LoRAs and the report.")
@seed_option("Seed of figures, noise and order.")
@threads_option()
@flag("--resume", "Go on with the demo in --output; with nothing there, begin it.")
@flag("--quick", "A few updates only: to see that it runs, not what it finds.")
@flag("--full", "The experiment: eight models, three seeds, hours; finished cells are never done twice.")
@flag("--cfm", "The experiment on masked flow matching (docs/cfm): ablations, and RL on top; hours.")
@number(
    "--seeds",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    default=3,
    help="With --full or --cfm: how many seeds, from --seed on; one each can run side by side.",
)
@path(
    "--cells",
    metavar="FOLDER",
    absent="OUTPUT/cells",
    help="With --full or --cfm: the folder of finished cells (docs/experiment/cells in a checkout).",
)
@number(
    "--minutes",
    metavar="MINUTES",
    kind=click.FloatRange(min=0, min_open=True),
    absent="to the end",
    help="With --full or --cfm: begin no further cell after so long; the same command goes on from there.",
)
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def demo(
    output: Path,
    seed: int,
    threads: int | None,
    resume: bool,
    quick: bool,
    full: bool,
    cfm: bool,
    seeds: int,
    cells: Path | None,
    minutes: float | None,
    dry_run: bool,
) -> None:
    """Explore, then suppress, with the embedded pocket Kontext on a CPU; then a report of what changed.

    \b
    divrl-train demo
    divrl-train demo --full --output docs/experiment
    divrl-train demo --cfm  --output docs/cfm
    """
    if full or cfm:
        if (full, cfm, quick).count(True) > 1:
            raise click.UsageError("--full, --cfm and --quick exclude each other: give one of them")
        if dry_run:
            tell_experiment(output, range(seed, seed + seeds), cells, is_cfm=cfm)
            return
        _experiment(output, range(seed, seed + seeds), threads, cells, minutes, is_cfm=cfm)
        return
    given = [name for name, value in (("--cells", cells), ("--minutes", minutes)) if value is not None]
    if given:
        raise click.UsageError(f"{' and '.join(given)} belong to the experiments: add --full or --cfm")
    if dry_run:
        tell_demo(output, seed=seed, resume=resume, quick=quick)
        return

    from divrl_core.evaluation.demo import run_demo

    quickly = " --quick" if quick else ""
    with resumable(f"divrl-train demo --output {output} --seed {seed}{quickly} --resume"):
        run_demo(output, seed=seed, resume=resume, quick=quick, threads=threads)


def _experiment(
    output: Path,
    seeds: range,
    threads: int | None,
    cells: Path | None,
    minutes: float | None,
    *,
    is_cfm: bool,
) -> None:
    from divrl_core.evaluation.cfm_plan import cfm_plan
    from divrl_core.evaluation.cfm_report import write_cfm_report
    from divrl_core.evaluation.experiment import run_experiment
    from divrl_core.evaluation.experiment_plan import experiment_plan
    from divrl_core.evaluation.experiment_report import write_experiment_report

    plan, write = (cfm_plan, write_cfm_report) if is_cfm else (experiment_plan, write_experiment_report)
    plans = [plan(seed=seed, threads=threads) for seed in seeds]
    with resumable("the same command"):
        page = run_experiment(output, plans, cells=cells, minutes=minutes, write=write)
    if page is not None:
        click.echo(f"wrote {page}")
