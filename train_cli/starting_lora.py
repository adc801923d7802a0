"""From a run or a LoRA file to what the next run takes over of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from divrl_core.config import TrainConfig
from divrl_core.settings import as_recorded, merge

from .config_file import SETTINGS_NAME, load_yaml
from .processes import is_first

OF_THE_STAGE = {"reward": ("kind",), "grpo": ("kl_reference",), "run": ("init_lora",)}
FOREIGN = ("function", "function_takes", "remote")  # of the reward: code, an address, and how they are called


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
    """The explore run's settings but its stage's own: from the run folder, else from the LoRA's header.

    A reward's function or server is not taken over, and a line on stderr says so: what came with a file shall neither
    run code nor be told pictures.
    """
    settings = _without_foreign_reward(_saved_settings(source, lora), source)
    kept = {name: section for name, section in settings.items() if name != "stage"}
    for name, keys in OF_THE_STAGE.items():
        if isinstance(kept.get(name), dict):
            kept[name] = {key: value for key, value in kept[name].items() if key not in keys}
    return kept


def _saved_settings(source: Path, lora: Path) -> dict[str, Any]:
    """All settings of the run that made a LoRA: from its folder, else from the LoRA's header."""
    if (source / SETTINGS_NAME).is_file():
        return as_recorded(TrainConfig, load_yaml(source / SETTINGS_NAME))

    from divrl_core.models.lora_file import read_lora

    file = read_lora(lora, with_weights=False)
    return merge({"lora": {"rank": file.rank, "alpha": file.alpha}}, as_recorded(TrainConfig, file.settings))


def _without_foreign_reward(settings: dict[str, Any], source: Path) -> dict[str, Any]:
    reward = settings.get("reward")
    if not isinstance(reward, dict):
        return settings
    remote = reward.get("remote")
    url = remote.get("url") if isinstance(remote, dict) else remote
    for kind, name, value in (("own", "function", reward.get("function")), ("remote", "remote.url", url)):
        if value is not None and is_first():
            click.echo(
                f"--from: reward.{name}={value} of {source} is not taken over: no code and no address is taken from a "
                f"file; to use it again: --set reward.kind={kind} --set reward.{name}=...",
                err=True,
            )
    kept = {key: value for key, value in reward.items() if key not in FOREIGN}
    return {**settings, "reward": kept}


def inherited_start(source: Path, lora: Path) -> dict[str, Any]:
    """Model and adapter of the run that made a LoRA, and the LoRA itself: what cfm and explore go on from."""
    settings = _saved_settings(source, lora)
    model = {**settings.get("model", {})}
    if "layout" in model and model["layout"] is None:
        from divrl_core.models.lora_file import read_lora

        model["layout"] = read_lora(lora, with_weights=False).layout
    kept = {"model": model, "lora": settings.get("lora", {})}
    return {**{name: values for name, values in kept.items() if values}, "run": {"init_lora": str(lora)}}
