"""Presets: settings of the full-size job for a card, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

NAMES = ("24gb", "48gb", "80gb", "8x80gb")
STARTED_FROM = {"model": ("path", "revision", "layout"), "lora": None}
"""What a run that goes on from another takes over of it, and no preset changes: section -> names, None = all."""


def preset_settings(name: str, stage: str) -> dict[str, Any]:
    """A preset's settings for a stage. Raises ValueError, with the nearest name, when there is none."""
    settings: dict[str, Any] = _load(name)[stage]
    return settings


def preset_card(name: str) -> str:
    """The card a preset is made for, as --card takes it."""
    return str(_load(name)["card"])


def without_start(preset: Mapping[str, Any]) -> dict[str, Any]:
    """The preset for a run that goes on from another: the model and the adapter are the other run's."""
    kept: dict[str, Any] = {}
    for section, values in preset.items():
        names = STARTED_FROM.get(section, ())
        if names is not None:
            kept[section] = {name: value for name, value in values.items() if name not in names}
    return kept


def _load(name: str) -> dict[str, Any]:
    if name not in NAMES:
        near = difflib.get_close_matches(name.lower(), NAMES, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"--preset must be one of {', '.join(NAMES)}, got {name!r}{hint}")
    text = (files("divrl_core") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded
