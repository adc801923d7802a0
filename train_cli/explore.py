"""divrl-train explore: stage 1, more structure."""

from __future__ import annotations

from pathlib import Path

import click

from .config_file import resolve, resolve_resumed
from .stage import run_stage, stage_options


@click.command(short_help="Stage 1: train for structure that differs from the reference.")
@stage_options("runs/explore")
def explore(
    config_file: Path | None, overrides: tuple[str, ...], output: Path, resume: bool, dry_run: bool
) -> None:
    """Stage 1: train a LoRA for structure that differs from the reference (reward: nSSM).

    \b
    The embedded model and world:  divrl-train explore --dry-run
    The real thing:                divrl-train explore --output runs/explore \\
                                       --set model.path=black-forest-labs/FLUX.1-Kontext-dev \\
                                       --set model.dtype=bfloat16 --set data.source=photographs/

    Killed at any moment, the run goes on with the same command and --resume.
    """
    if resume and config_file is None:
        config = resolve_resumed("explore", output, overrides)
    else:
        config = resolve("explore", config_file=config_file, overrides=overrides)
    run_stage(config, output, resume=resume, dry_run=dry_run)
