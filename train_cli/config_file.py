"""YAML files and `--set` words to settings, and settings back to YAML.

A training command's settings are laid over one another, the later winning: the stage's defaults, the settings
of the run that it goes on from, the `--preset`, the `--config` file, `--set`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from divrl_core.config import TrainConfig, apply_overrides, from_mapping, to_mapping
from divrl_core.config_cfm import CfmConfig
from divrl_core.settings import Settings, as_recorded, merge

from .presets import preset_settings, without_start

SETTINGS_NAME = "settings.yaml"
Config = TypeVar("Config", TrainConfig, CfmConfig)


def resolve(
    stage: str,
    *,
    config_file: Path | None = None,
    overrides: Sequence[str] = (),
    inherited: Mapping[str, Any] | None = None,
    preset: str | None = None,
    kind: type[Config] = TrainConfig,  # type: ignore[assignment]
) -> Config:
    """The settings of a new run. Raises ValueError or FileNotFoundError naming file and setting.

    A run that goes on from another keeps that one's model and adapter, whatever the preset says.
    """
    below = preset_settings(preset, stage) if preset else {}
    below = merge(inherited, without_start(below)) if inherited else below
    from_file = load_yaml(config_file) if config_file else {}
    check_stage(from_file, stage, str(config_file))
    merged = merge(below, from_file)
    _keep_start(merged, inherited or {}, from_file, str(config_file))
    mapping = apply_overrides(merged, overrides, parse=parse_value)
    check_stage(mapping, stage, "--set")
    return from_mapping(kind, {**mapping, "stage": stage}, str(config_file or "settings"))


def _keep_start(
    merged: dict[str, Any], inherited: Mapping[str, Any], from_file: Mapping[str, Any], where: str
) -> None:
    """The LoRA named on the command line holds, also where the file has init_lora: null, as every written one has."""
    start = _init_lora(inherited)
    if start is None:
        return
    given = _init_lora(from_file)
    if given not in (None, start):
        raise ValueError(
            f"{where}: run.init_lora is {given}, the command line says {start}; leave one of them out"
        )
    merged["run"]["init_lora"] = start


def _init_lora(mapping: Mapping[str, Any]) -> Any:
    run = mapping.get("run")
    return run.get("init_lora") if isinstance(run, Mapping) else None


def resolve_resumed(
    stage: str,
    run: Path,
    overrides: Sequence[str],
    kind: type[Config] = TrainConfig,  # type: ignore[assignment]
) -> Config:
    """The settings that `run` was started with, with `--set` laid over them (to make it longer)."""
    path = run / SETTINGS_NAME
    if not path.is_file():
        raise FileNotFoundError(
            f"nothing to resume in {run}: it has no {SETTINGS_NAME}; leave out --resume to start it"
        )
    saved = as_recorded(kind, load_yaml(path))
    check_stage(saved, stage, str(path))
    return from_mapping(kind, apply_overrides(saved, overrides, parse=parse_value), str(path))


def check_stage(mapping: Mapping[str, Any], stage: str, where: str) -> None:
    """Raises ValueError when the settings are another stage's: the command says which stage is run."""
    found = mapping.get("stage", stage)
    if found != stage:
        raise ValueError(
            f"{where}: stage is {found!r}, the command is {stage}; run divrl-train {found} or leave it out"
        )


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, {} for an empty one. Raises FileNotFoundError, ValueError with the line."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no settings file {path}")
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}{_place(error)}: no valid YAML: {_problem(error)}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: needs sections of names and values, got {type(loaded).__name__}")
    return loaded


def parse_value(text: str) -> Any:
    """The value that `text` is in YAML: 16, 3e-4, true, null, [0, 1], words. Raises ValueError."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"--set: {text!r} is no valid YAML value: {_problem(error)}") from error


def to_yaml(config: Settings) -> str:
    """All settings, defaults included, as a file that `--config` takes."""
    return yaml.safe_dump(to_mapping(config), sort_keys=False, allow_unicode=True)


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a name given twice in a section, where PyYAML silently takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                problem = f"{key.value} is given twice in one section"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


def _place(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f", line {mark.line + 1}" if mark is not None else ""


def _problem(error: Exception) -> str:
    return " ".join(str(getattr(error, "problem", None) or error).split())
