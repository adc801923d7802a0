"""From a run or a LoRA file to what the next run takes over of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from divrl_core.settings import merge

from .config_file import SETTINGS_NAME, load_yaml

OF_THE_STAGE = {"reward": ("kind",), "grpo": ("kl_reference",), "run": ("init_lora",)}


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

        file = read_lora(lora, with_weights=False)
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

        model["layout"] = read_lora(lora, with_weights=False).layout
    kept = {"model": model, "lora": settings.get("lora", {})}
    return {**{name: values for name, values in kept.items() if values}, "run": {"init_lora": str(lora)}}
