"""Ctrl-C: one line that says how to go on, and exit code 130."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from .processes import is_first


@contextmanager
def resumable(command_line: str) -> Iterator[None]:
    """Inside this block an interruption ends the process and names the command that goes on."""
    try:
        yield
    except KeyboardInterrupt:
        if is_first():
            click.echo(f"stopped; go on with: {command_line}", err=True)
        sys.exit(130)
