"""divrl-train explore: stage 1, more structure."""

from __future__ import annotations

from pathlib import Path

import click

from .config_file import resolve, resolve_resumed
from .options import path
from .settings_options import refuse_preset
from .stage import run_stage, stage_options
from .starting_lora import find_lora, inherited_start


@click.command(short_help="Stage 1: train for structure that differs from the reference.")
@path(
    "--from",
    "source",
    metavar="RUN_OR_LORA",
    absent="the model as it is",
    help="Start from a cfm run's LoRA: its model, layout and adapter are taken over.",
)
@stage_options("runs/explore")
def explore(
    source: Path | None,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path,
    resume: bool,
    processes: int,
    sharded: bool,
    dry_run: bool,
) -> None:
    """Stage 1: train a LoRA for structure that differs from the reference (reward: nSSM inside the subject's
    box; the paper's: --set reward.recipe=paper).

    \b
    The embedded model and world:  divrl-train explore --dry-run
    The real thing:                divrl-train explore --output runs/explore \\
                                       --set model.path=black-forest-labs/FLUX.1-Kontext-dev \\
                                       --set model.dtype=bfloat16 --set data.source=photographs/
    On top of masked CFM:          divrl-train explore --from runs/cfm --output runs/explore
    By DiffusionNFT:               divrl-train explore --set algorithm=nft

    Killed at any moment, the run goes on with the same command and --resume.
    """
    if resume and source is not None:
        raise click.UsageError(
            "--resume goes on with the run in --output: leave out --from", click.get_current_context()
        )
    refuse_preset(preset, resume=resume, has_file=config_file is not None)
    if resume and config_file is None:
        config = resolve_resumed("explore", output, overrides)
    else:
        inherited = None if source is None else inherited_start(source, find_lora(source, "best"))
        config = resolve(
            "explore", config_file=config_file, overrides=overrides, inherited=inherited, preset=preset
        )
    run_stage(
        config, output, resume=resume, processes=processes, sharded=sharded, dry_run=dry_run, preset=preset
    )
