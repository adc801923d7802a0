"""The options that settings come by: a preset, a file, single values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from .options import Command, path, text
from .presets import NAMES


def settings_options(command: Command) -> Command:
    """`--preset --config --set`, in this order."""
    options: tuple[Callable[[Any], Any], ...] = (
        text(
            "--preset",
            metavar="NAME",
            absent="none",
            help=f"Settings of the full-size job for a card, below --config and --set: {', '.join(NAMES)}.",
        ),
        path(
            "--config",
            "config_file",
            metavar="FILE",
            absent="none",
            help="YAML file of settings; what it does not name keeps its default.",
        ),
        set_option("grpo.group_size=16"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def set_option(example: str) -> Callable[[Any], Any]:
    """`--set NAME=VALUE`, which may be given again."""
    return click.option(
        "--set",
        "overrides",
        metavar="NAME=VALUE",
        type=str,
        multiple=True,
        show_default="none",
        help=f"One setting, over the file: --set {example}. May be given again.",
    )


def refuse_preset(preset: str | None, *, resume: bool, has_file: bool) -> None:
    """Raises click's UsageError when a run that goes on is given a preset: its settings are those it began with."""
    if preset is not None and resume and not has_file:
        raise click.UsageError(
            "--resume goes on with the run's own settings: leave out --preset", click.get_current_context()
        )
