"""divrl-train cfm: identity, by masked conditional flow matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from divrl_core.config_cfm import CfmConfig

from .config_file import resolve, resolve_resumed, to_yaml
from .interruption import resumable
from .options import path
from .stage import has_checkpoint, refuse_used_folder, stage_options
from .starting_lora import find_lora, inherited_start

if TYPE_CHECKING:
    from divrl_core.training.pair_data import CfmData


@click.command(short_help="Train identity into a text-to-image model: masked flow matching.")
@path(
    "--init-lora",
    "init_lora",
    metavar="RUN_OR_LORA",
    absent="a fresh one",
    help="Continue from a cfm run's best LoRA or a file, with its model and adapter, as pairs do from grids.",
)
@stage_options("runs/cfm", CfmConfig)
def cfm(
    init_lora: Path | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path,
    resume: bool,
    dry_run: bool,
) -> None:
    """Train a LoRA that takes its subject from a clean reference beside the noisy target (loss on the target only).

    \b
    The embedded model and world:  divrl-train cfm --dry-run
    Your pictures:                 divrl-train cfm --output runs/cfm \\
                                       --set model.path=black-forest-labs/FLUX.1-dev --set model.dtype=bfloat16 \\
                                       --set data.source=pairs/target --set data.references=pairs/reference

    Killed at any moment, the run goes on with the same command and --resume.
    """
    if resume and init_lora is not None:
        raise click.UsageError(
            "--resume goes on with the run in --output: leave out --init-lora", click.get_current_context()
        )
    if resume and config_file is None:
        config = resolve_resumed("cfm", output, overrides, CfmConfig)
    else:
        inherited = None
        if init_lora is not None:
            inherited = inherited_start(init_lora, find_lora(init_lora, "best", "--init-lora"))
        config = resolve(
            "cfm", config_file=config_file, overrides=overrides, inherited=inherited, kind=CfmConfig
        )
    refuse_used_folder(output, resume=resume, dry_run=dry_run)

    from divrl_core.training.cfm_preflight import check_cfm

    data = check_cfm(config, is_resumed=resume and has_checkpoint(output))
    for line in plan_lines(config, data) if dry_run else ():
        click.echo(f"# {line}")
    for line in config.advice():
        click.echo(f"warning: {line}", err=True)
    if dry_run:
        click.echo("\n" + to_yaml(config))
        return

    from divrl_core.training.cfm_loop import train_cfm

    with resumable(f"divrl-train cfm --output {output} --resume"):
        result = train_cfm(config, output, resume=resume, data=data)
    click.echo(f"{result.updates} updates done; the best LoRA by validation loss: {result.best_lora}")


def plan_lines(config: CfmConfig, data: CfmData) -> list[str]:
    """What the run will train on, for how long, and what its LoRA takes."""
    from divrl_core.training.cfm_preflight import lora_line, size_of_lora

    objective, run, pairs = config.objective, config.run, len(data.train.pairs)
    seen = run.updates * objective.batch_size * objective.accumulation
    lines = [
        f"train: {pairs} pairs; validate: {len(data.held_out.pairs)} pairs",
        f"an update: {objective.accumulation} x {objective.batch_size} pairs; the run: {run.updates} updates, "
        f"{seen / pairs:.2g} times through the pairs; learning rate {config.lr:.3g}",
    ]
    size = size_of_lora(config)
    if size is None:
        return [
            *lines,
            f"LoRA: rank {config.lora.rank}; its size is told once the model is here, before it loads",
        ]
    return [*lines, lora_line(config, size)]
