"""The options that benchmarks of time have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def run_options(*clocks: str, repeats: int) -> Callable[[Command], Command]:
    """`--threads`, `--repeats` and `--clock`; the clock is wall unless told otherwise."""

    def decorate(command: Command) -> Command:
        for option in (clock_option(*clocks), count("--repeats", repeats), count("--threads", 1)):
            command = option(command)
        return command

    return decorate


def clock_option(*clocks: str) -> Callable[[Command], Command]:
    """`--clock NAME`."""
    return click.option(
        "--clock",
        type=click.Choice(sorted(clocks)),
        default="wall",
        show_default=True,
        help="cpu: processor time of this process, for a machine that has other work.",
    )


def count(name: str, default: int) -> Callable[[Command], Command]:
    """A number of at least 1."""
    return click.option(name, type=click.IntRange(min=1), default=default, show_default=True, metavar="COUNT")
