"""divrl-train cfm: identity, by masked conditional flow matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from divrl_core.config_cfm import CfmConfig

from .config_file import resolve, resolve_resumed, to_yaml
from .dry_run import planned_lines
from .interruption import resumable
from .options import path
from .processes import is_first
from .settings_options import refuse_preset
from .stage import has_checkpoint, refuse_used_folder, share_out, stage_options
from .starting_lora import find_lora, inherited_start

if TYPE_CHECKING:
    from divrl_core.training.pair_data import CfmData


@click.command(short_help="Train identity into a text-to-image model by flow matching.")
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
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path,
    resume: bool,
    processes: int,
    sharded: bool,
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
    refuse_preset(preset, resume=resume, has_file=config_file is not None)
    if resume and config_file is None:
        config = resolve_resumed("cfm", output, overrides, CfmConfig)
    else:
        inherited = None
        if init_lora is not None:
            inherited = inherited_start(init_lora, find_lora(init_lora, "best", "--init-lora"))
        config = resolve(
            "cfm",
            config_file=config_file,
            overrides=overrides,
            inherited=inherited,
            preset=preset,
            kind=CfmConfig,
        )
    refuse_used_folder(output, resume=resume, dry_run=dry_run)

    from divrl_core.training.cfm_preflight import check_cfm

    data = check_cfm(config, is_resumed=resume and has_checkpoint(output))
    if dry_run:
        planned = planned_lines(config, counts_of(data), preset=preset, processes=processes, sharded=sharded)
        for line in (*plan_lines(config, data), "", *planned):
            click.echo(f"# {line}".rstrip())
    for line in config.advice() if is_first() else ():
        click.echo(f"warning: {line}", err=True)
    if dry_run:
        click.echo("\n" + to_yaml(config))
        return

    go_on = f"divrl-train cfm --output {output} --resume"
    share_out(processes, sharded=sharded, go_on=go_on)

    from divrl_core.training.cfm_loop import train_cfm

    with resumable(go_on):
        result = train_cfm(config, output, resume=resume, data=data)
    if is_first():
        click.echo(f"{result.updates} updates done; the best LoRA by validation loss: {result.best_lora}")


def counts_of(data: CfmData) -> dict[str, int]:
    """How many captions and pairs the run encodes."""
    pairs = [*data.train.pairs, *data.held_out.pairs]
    captions = {caption for pair in pairs for caption in pair.captions}
    return {"prompts": len(captions) + 1, "references": len(pairs)}


def plan_lines(config: CfmConfig, data: CfmData) -> list[str]:
    """What the run will train on, and for how long."""
    objective, run, pairs = config.objective, config.run, len(data.train.pairs)
    seen = run.updates * objective.batch_size * objective.accumulation
    return [
        f"train: {pairs} pairs; validate: {len(data.held_out.pairs)} pairs",
        f"an update: {objective.accumulation} x {objective.batch_size} pairs; the run: {run.updates} updates, "
        f"{seen / pairs:.2g} times through the pairs; learning rate {config.lr:.3g}",
    ]
