"""divrl-train cfm: identity, by masked conditional flow matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from divrl_core.config_cfm import CfmConfig

from .config_file import resolve, resolve_resumed, to_yaml
from .interruption import resumable
from .options import path
from .stage import refuse_used_folder, stage_options

if TYPE_CHECKING:
    from divrl_core.training.pair_data import CfmData


@click.command(short_help="Train identity into a text-to-image model: masked flow matching.")
@path(
    "--init-lora",
    "init_lora",
    metavar="RUN_OR_LORA",
    absent="a fresh one",
    help="Continue from a cfm run's best LoRA or a file, as pairs do from grids.",
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
    if resume and config_file is None:
        config = resolve_resumed("cfm", output, overrides, CfmConfig)
    else:
        inherited = {} if init_lora is None else {"run": {"init_lora": str(_lora_file(init_lora))}}
        config = resolve(
            "cfm", config_file=config_file, overrides=overrides, inherited=inherited, kind=CfmConfig
        )
    refuse_used_folder(output, resume=resume, dry_run=dry_run)

    from divrl_core.training.cfm_preflight import check_cfm

    data = check_cfm(config)
    for line in plan_lines(config, data):
        click.echo(f"# {line}", err=not dry_run)
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
    from divrl_core.training.cfm_preflight import size_of_lora

    objective, run, pairs = config.objective, config.run, len(data.train.pairs)
    seen = run.updates * objective.batch_size * objective.accumulation
    lines = [
        f"train: {pairs} pairs; validate: {len(data.held_out.pairs)} pairs",
        f"an update: {objective.accumulation} x {objective.batch_size} pairs; the run: {run.updates} updates, "
        f"{seen / pairs:.2g} times through the pairs; learning rate {config.lr:.3g}",
    ]
    size = size_of_lora(config)
    if size is None:
        return [*lines, f"LoRA: rank {config.lora.rank}; its size is known once the model is here"]
    return [
        *lines,
        f"LoRA: {size.linears} linear layers, rank {config.lora.rank}: {size.parameters / 1e6:,.1f} M parameters; "
        f"file {_bytes(size.file_bytes())}, in training {_bytes(size.training_bytes(config.optim.name))} "
        f"(weights, gradients, {config.optim.name}; float32), {_bytes(size.average_bytes())} of average on the CPU",
    ]


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _lora_file(source: Path) -> Path:
    """The file itself, or a run's best."""
    if source.is_dir() and (source / "lora" / "best.safetensors").is_file():
        return source / "lora" / "best.safetensors"
    if not source.is_file():
        raise FileNotFoundError(
            f"--init-lora: there is no LoRA file, and no run with lora/best.safetensors, {source}"
        )
    return source
