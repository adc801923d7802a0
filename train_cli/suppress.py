"""divrl-train suppress: stage 2, identity back, from stage 1's LoRA."""

from __future__ import annotations

from pathlib import Path

import click

from divrl_core.settings import merge

from .config_file import resolve, resolve_resumed
from .options import choice, path
from .settings_options import refuse_preset
from .stage import run_stage, stage_options
from .starting_lora import find_lora, inherited_settings


@click.command(short_help="Stage 2: bring identity back, from explore's LoRA.")
@path(
    "--from",
    "source",
    metavar="RUN_OR_LORA",
    absent="required, but for --resume",
    help="Explore's run folder, or a LoRA file.",
)
@choice("--from-checkpoint", "best", "last", help="The run's LoRA: best by held-out measures, or the last.")
@stage_options("runs/suppress")
def suppress(
    source: Path | None,
    from_checkpoint: str,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path,
    resume: bool,
    processes: int,
    sharded: bool,
    dry_run: bool,
) -> None:
    """Stage 2: suppress what exploring broke (reward: nSSM, less a penalty where VSM is below the gate).

    Settings that neither --config nor --set gives are those of the explore run.

    \b
    divrl-train suppress --from runs/explore --output runs/suppress
    """
    refuse_preset(preset, resume=resume, has_file=source is not None)
    if source is not None:
        lora = find_lora(source, from_checkpoint)
        settings = inherited_settings(source, lora)
        if "objective" in settings:
            raise ValueError(
                f"--from: {source} is a cfm run, and suppress goes on from explore's; "
                f"first: divrl-train explore --from {source}"
            )
        inherited = merge(settings, {"run": {"init_lora": str(lora)}})
        config = resolve(
            "suppress", config_file=config_file, overrides=overrides, inherited=inherited, preset=preset
        )
    elif resume:
        config = resolve_resumed("suppress", output, overrides)
    else:
        raise click.UsageError("--from RUN_OR_LORA is needed", click.get_current_context())
    run_stage(
        config, output, resume=resume, processes=processes, sharded=sharded, dry_run=dry_run, preset=preset
    )
