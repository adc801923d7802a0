"""The kinds of options the commands have: each typed, with its unit as metavar and its default shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from divrl_core.config_reward import BackboneName

Command = TypeVar("Command", bound=Callable[..., Any])


def flag(name: str, help: str) -> Callable[[Command], Command]:
    """A switch that is off unless given."""
    return click.option(name, is_flag=True, type=bool, default=False, show_default="off", help=help)


def output_folder(default: str, help: str) -> Callable[[Command], Command]:
    """`--output FOLDER`."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option(
        "--output", metavar="FOLDER", type=kind, default=default, show_default=True, help=help
    )


def path(*names: str, metavar: str, help: str, absent: str = "") -> Callable[[Command], Command]:
    """A file or folder; `absent` tells what happens without it, and without `absent` it is required."""
    kind = click.Path(path_type=Path)
    required, shown = not absent, absent or False
    return click.option(*names, metavar=metavar, type=kind, required=required, show_default=shown, help=help)


def text(
    *names: str, metavar: str, help: str, default: str | None = None, absent: str = ""
) -> Callable[[Command], Command]:
    """Words; `absent` tells what happens without them, and with neither that nor a default they are required."""
    required = default is None and not absent
    return click.option(
        *names,
        metavar=metavar,
        type=str,
        default=default,
        required=required,
        show_default=absent or not required,
        help=help,
    )


def choice(name: str, *choices: str, help: str) -> Callable[[Command], Command]:
    """One of several words; the first is the default."""
    kind = click.Choice(choices)
    metavar = "|".join(choices)
    return click.option(name, metavar=metavar, type=kind, default=choices[0], show_default=True, help=help)


def backbone_options() -> Callable[[Command], Command]:
    """`--backbone NAME` and `--backbone-path FOLDER_OR_ID`, as `reward.backbone.name` and `.path`."""

    def add(command: Command) -> Command:
        where = text(
            "--backbone-path",
            metavar="FOLDER_OR_ID",
            absent="the backbone's own",
            help="Folder or hub id of the backbone's weights.",
        )
        names = get_args(BackboneName)
        return choice("--backbone", *names, help="What measures: docs/rewards.md, Backbones.")(where(command))

    return add


def number(
    *names: str,
    metavar: str,
    kind: click.ParamType[Any],
    help: str,
    default: float | None = None,
    absent: str = "",
) -> Callable[[Command], Command]:
    """A number of a range; `absent` says in help what happens without it."""
    return click.option(
        *names, metavar=metavar, type=kind, default=default, show_default=absent or True, help=help
    )


def seed_option(help: str) -> Callable[[Command], Command]:
    """`--seed INTEGER`, 0 unless given."""
    return number("--seed", metavar="INTEGER", kind=click.IntRange(min=0), default=0, help=help)


def threads_option() -> Callable[[Command], Command]:
    """`--threads COUNT`."""
    meaning = "CPU threads; part of what makes a run repeatable."
    kind = click.IntRange(min=1)
    return number("--threads", metavar="COUNT", kind=kind, absent="torch's choice", help=meaning)


def numbers(*names: str, kind: NumberList, help: str, default: str) -> Callable[[Command], Command]:
    """Numbers separated by commas."""
    return click.option(
        *names, metavar="NUMBER,...", type=kind, default=default, show_default=True, help=help
    )


class Size(tuple[int, int]):
    """(height, width) that is written as it was given, WIDTHxHEIGHT, where a command is handed on as words."""

    def __str__(self) -> str:
        return f"{self[1]}x{self[0]}"


class SizeType(click.ParamType[tuple[int, int]]):
    """`512` or `768x512` (width x height) as (height, width); multiples of 16 from 16 up."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Raises click's BadParameter for anything but such a size."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if not 1 <= len(parts) <= 2 or not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"needs a side (512) or WIDTHxHEIGHT (768x512), got {value!r}", param, ctx)
        width, height = int(parts[0]), int(parts[-1])
        if min(width, height) < 16 or width % 16 or height % 16:
            self.fail(f"sides must be multiples of 16 from 16 up, got {value!r}", param, ctx)
        return Size((height, width))


class NumberList(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas, `0,1,2`, as a tuple of ints (`whole=True`) or floats, none twice."""

    def __init__(self, *, whole: bool, at_least: float = -math.inf) -> None:
        self.whole = whole
        self.at_least = at_least
        self.name = "whole numbers" if whole else "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Raises click's BadParameter for anything but such a list."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple((int if self.whole else float)(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"needs {self.name} separated by commas, got {value!r}", param, ctx)
        if not all(math.isfinite(number) and number >= self.at_least for number in found):
            bound = f" of at least {self.at_least:g}" if math.isfinite(self.at_least) else ""
            self.fail(f"needs finite {self.name}{bound}, got {value!r}", param, ctx)
        if len(set(found)) != len(found):
            self.fail(f"names a number twice: {value!r}", param, ctx)
        return found


def device_of(name: str) -> str:
    """The device to run on: auto is a GPU if there is one. Raises ValueError when it cannot be used here."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here: {str(error).splitlines()[0]}") from error
    return name
