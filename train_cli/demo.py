"""divrl-train demo: the whole method on this computer."""

from __future__ import annotations

from pathlib import Path

import click

from .demo_dry_run import tell_demo
from .interruption import resumable
from .options import flag, output_folder, seed_option, threads_option


@click.command(short_help="The whole method on this computer, in minutes, with a report.")
@output_folder("runs/demo", "Folder of both runs, the LoRAs and the report.")
@seed_option("Seed of figures, noise and order.")
@threads_option()
@flag("--resume", "Go on with the demo in --output; with nothing there, begin it.")
@flag("--quick", "A few updates only: to see that it runs, not what it finds.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def demo(
    output: Path,
    seed: int,
    threads: int | None,
    resume: bool,
    quick: bool,
    dry_run: bool,
) -> None:
    """Explore, then suppress, with the embedded pocket Kontext on a CPU; then a report of what changed.

    \b
    divrl-train demo
    divrl-train demo --quick
    """
    if dry_run:
        tell_demo(output, seed=seed, resume=resume, quick=quick)
        return

    from divrl_core.evaluation.demo import run_demo

    quickly = " --quick" if quick else ""
    with resumable(f"divrl-train demo --output {output} --seed {seed}{quickly} --resume"):
        run_demo(output, seed=seed, resume=resume, quick=quick, threads=threads)
