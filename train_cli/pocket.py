"""divrl-train pocket: the embedded small Kontext pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from .dry_run import print_dry_run
from .interruption import resumable
from .options import choice, flag, number, output_folder, seed_option, text, threads_option


@click.group(short_help="The embedded small Kontext: train it from scratch.")
def pocket() -> None:
    """The pocket Kontext, the small pipeline that comes with this repository."""


@pocket.command(short_help="Train the pocket Kontext from scratch; resumes by itself.")
@output_folder("runs/pocket", "Work folder: checkpoints, and the finished pipeline in it.")
@text(
    "--from",
    "start_from",
    metavar="PIPELINE",
    absent="from scratch",
    help='Train this pocket pipeline further ("pocket": the embedded one, or a folder).',
)
@choice("--vae", "train", "keep", help="With --from: train its VAE too, or keep it.")
@choice("--stage", "all", "vae", help="Where to stop: after the VAE, or at the end.")
@number(
    "--minutes",
    metavar="MINUTES",
    kind=click.FloatRange(min=0, min_open=True),
    absent="the recipe's end",
    help="Stop after so long; the same command goes on from there.",
)
@choice(
    "--mixed-precision",
    "no",
    "bf16",
    help="Products in float32, or in bfloat16: faster where the processor has them (avx512_bf16, AMX).",
)
@flag("--compile", help="torch.compile the transformer: needs a C++ compiler, faster steps.")
@threads_option()
@seed_option("Seed of weights, figures and order.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def build(
    output: Path,
    start_from: str | None,
    vae: Literal["train", "keep"],
    stage: Literal["all", "vae"],
    minutes: float | None,
    mixed_precision: Literal["no", "bf16"],
    compile: bool,
    threads: int | None,
    seed: int,
    dry_run: bool,
) -> None:
    """Train the pocket Kontext on its own world: hours on a CPU, safe to kill at any moment.

    \b
    divrl-train pocket build --output runs/pocket --threads 2
    """
    if dry_run:
        from divrl_core.pocket.dry_runs import build_lines

        lines = build_lines(output, start_from=start_from, vae=vae, stage=stage, compiled=compile)
        print_dry_run(lines, output=f"{output}: shards, work" + ("" if stage == "vae" else ", pipeline"))
        return

    from divrl_core.pocket.build import build as build_pocket

    with resumable(f"divrl-train pocket build --output {output}, and the options of before"):
        pipeline = build_pocket(
            output,
            start_from=start_from,
            vae=vae,
            stage=stage,
            minutes=minutes,
            mixed_precision=mixed_precision,
            compiled=compile,
            threads=threads,
            seed=seed,
        )
    if pipeline is not None:
        click.echo(f"wrote {pipeline}")


@pocket.command(short_help="Train the reward's heads on the pocket world's correspondences.")
@output_folder("runs/heads", "Work folder: the drawn pairs, and model.safetensors in it.")
@choice(
    "--mixed-precision",
    "no",
    "bf16",
    help="Of the VAE's products: bfloat16 is faster where the processor has it (avx512_bf16, AMX).",
)
@threads_option()
@seed_option("Seed of figures, damage, weights and order.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def heads(
    output: Path, mixed_precision: Literal["no", "bf16"], threads: int | None, seed: int, dry_run: bool
) -> None:
    """Train the two heads of the reward backbone `pocket`: minutes on a CPU. Drawn pairs are kept and used again.

    \b
    divrl-train pocket heads --output runs/heads --threads 2
    """
    if dry_run:
        from divrl_core.pocket.dry_runs import heads_lines

        print_dry_run(heads_lines(), output=f"{output}/pairs, {output}/model.safetensors")
        return

    from divrl_core.pocket.train_heads import HeadRecipe, train_heads

    with resumable("the same command; drawn pairs are kept"):
        path = train_heads(
            output,
            recipe=HeadRecipe(mixed_precision=mixed_precision),
            seed=seed,
            threads=threads,
            report=lambda message: click.echo(message, err=True),
        )
    click.echo(f"wrote {path}")
