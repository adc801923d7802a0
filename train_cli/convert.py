"""divrl-train convert: raw PEFT folders to the LoRA layout that diffusers and ComfyUI load."""

from __future__ import annotations

from pathlib import Path

import click

from .dry_run import print_dry_run
from .options import flag


@click.command(short_help="A raw PEFT folder to a LoRA file for diffusers and ComfyUI.")
@click.argument("source", metavar="PEFT_FOLDER", type=click.Path(path_type=Path))
@click.argument("target", metavar="LORA_FILE", type=click.Path(dir_okay=False, path_type=Path))
@flag("--force", "Write over an existing LORA_FILE.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def convert(source: Path, target: Path, force: bool, dry_run: bool) -> None:
    """Turn PEFT_FOLDER (adapter_config.json and adapter_model.safetensors) into LORA_FILE.

    The scale alpha / rank is folded into the weights: the same adapter, to the last bit where the scale is a
    power of two.

    \b
    divrl-train convert divrl_weights/ divrl.safetensors
    """
    if target.suffix != ".safetensors":
        raise ValueError(f"{target}: the LoRA file's name must end in .safetensors")
    if target.exists() and not force:
        raise ValueError(f"{target} exists; write over it with --force, or name another file")

    if dry_run:
        from divrl_core.models.lora_convert import look_at_peft_folder

        layers, rank, alpha = look_at_peft_folder(source)
        print_dry_run(
            [f"{source}: {layers} layers, rank {rank}, alpha {alpha:g} to be folded in"], output=str(target)
        )
        return

    from divrl_core.models.lora_convert import convert_peft_folder

    lora = convert_peft_folder(source, target)
    click.echo(f"{target}: {len(lora.modules)} layers, rank {lora.rank}, alpha {lora.alpha:g} folded in")
