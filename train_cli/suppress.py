"""divrl-train suppress: stage 2, identity back, from stage 1's LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from divrl_core.settings import merge

from .config_file import SETTINGS_NAME, load_yaml, resolve, resolve_resumed
from .options import choice, path
from .stage import run_stage, stage_options

OF_THE_STAGE = {"reward": ("kind",), "grpo": ("kl_reference",), "run": ("init_lora",)}


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
    config_file: Path | None,
    overrides: tuple[str, ...],
    output: Path,
    resume: bool,
    dry_run: bool,
) -> None:
    """Stage 2: suppress what exploring broke (reward: nSSM, less a penalty where VSM is below the gate).

    Settings that neither --config nor --set gives are those of the explore run.

    \b
    divrl-train suppress --from runs/explore --output runs/suppress
    """
    if source is not None:
        lora = find_lora(source, from_checkpoint)
        settings = inherited_settings(source, lora)
        if "objective" in settings:
            raise ValueError(
                f"--from: {source} is a cfm run, and suppress goes on from explore's; "
                f"first: divrl-train explore --from {source}"
            )
        inherited = merge(settings, {"run": {"init_lora": str(lora)}})
        config = resolve("suppress", config_file=config_file, overrides=overrides, inherited=inherited)
    elif resume:
        config = resolve_resumed("suppress", output, overrides)
    else:
        raise click.UsageError("--from RUN_OR_LORA is needed", click.get_current_context())
    run_stage(config, output, resume=resume, dry_run=dry_run)


def find_lora(source: Path, checkpoint: str, option: str = "--from") -> Path:
    """The LoRA file that `source` means: itself, or a run folder's. Raises FileNotFoundError, ValueError."""
    if source.is_file():
        return source
    if not source.exists():
        raise FileNotFoundError(f"{option}: there is no run folder or LoRA file {source}")
    if (source / "adapter_config.json").is_file():
        raise ValueError(
            f"{option}: {source} is a raw PEFT folder; first: divrl-train convert {source} NAME.safetensors"
        )
    lora = source / "lora" / f"{checkpoint}.safetensors"
    if not lora.is_file():
        raise FileNotFoundError(f"{option}: {source} is no run with a lora/{checkpoint}.safetensors in it")
    return lora


def inherited_settings(source: Path, lora: Path) -> dict[str, Any]:
    """The explore run's settings but its stage's own: from the run folder, else from the LoRA's header."""
    if (source / SETTINGS_NAME).is_file():
        settings = load_yaml(source / SETTINGS_NAME)
    else:
        from divrl_core.models.lora_file import read_lora

        file = read_lora(lora)
        settings = merge({"lora": {"rank": file.rank, "alpha": file.alpha}}, file.settings)
    kept = {name: section for name, section in settings.items() if name != "stage"}
    for name, keys in OF_THE_STAGE.items():
        if isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in keys}
    return kept


def inherited_start(source: Path, lora: Path) -> dict[str, Any]:
    """Model and adapter of the run that made a LoRA, and the LoRA itself: what cfm and explore go on from."""
    settings = inherited_settings(source, lora)
    model = {**settings.get("model", {})}
    if "layout" in model and model["layout"] is None:
        from divrl_core.models.lora_file import read_lora

        model["layout"] = read_lora(lora).layout
    kept = {"model": model, "lora": settings.get("lora", {})}
    return {**{name: values for name, values in kept.items() if values}, "run": {"init_lora": str(lora)}}
