"""divrl-train: the commands, loaded only when called, and one line for every mistake.

No module of this package imports torch or anything that does: a command's body imports what it needs.
Mistakes (ValueError, OSError such as a missing file, wrong options) end as one line on stderr and exit code
2, Ctrl-C as 130.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from .processes import ERROR_FILE, is_first

SECTIONS = {
    "See it work": ("demo", "experiment"),
    "Train": ("plan", "cfm", "explore", "suppress", "serve-reward"),
    "Look and measure": ("sample", "score", "evaluate", "inspect", "report"),
    "Files and models": ("convert", "pocket"),
}
COMMANDS = tuple(name for names in SECTIONS.values() for name in names)
MISTAKES = (ValueError, OSError, ImportError)
SMALLER = "take smaller micro-batches (grpo.micro_batch, objective.batch_size), pictures or rank, or bfloat16"


class CommandLine(click.Group):
    """A group whose commands live in modules of their own name and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command from its module, imported now."""
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(importlib.import_module(f"train_cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in the sections of --help."""
        width = max(map(len, COMMANDS))
        for section, names in SECTIONS.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            with formatter.section(section):
                formatter.write_dl(
                    [
                        (name.ljust(width), command.get_short_help_str(100))
                        for name, command in commands
                        if command
                    ]
                )

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command line and ends the process with 0, 2 after a mistake, 130 after Ctrl-C."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(2)
        except click.ClickException as error:
            fail(_one_line(error))
        except click.Abort:
            click.echo("divrl-train: interrupted", err=True)
            sys.exit(130)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError" or os.environ.get("DIVRL_TRACEBACK"):
                raise
            fail(
                f"divrl-train: the GPU's memory does not suffice ({str(error).partition('. ')[0]}); {SMALLER}"
            )
        except MISTAKES as error:
            if os.environ.get("DIVRL_TRACEBACK") or _is_our_own(error):
                raise
            fail(f"divrl-train: {_words(error)}")
        sys.exit(code if isinstance(code, int) else 0)


class EchoHandler(logging.Handler):
    """What the work logs, on stderr as it is at that moment; warnings say that they are."""

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record."""
        mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        click.echo(mark + self.format(record), err=True)


def fail(message: str) -> NoReturn:
    """Ends the process with a message on stderr and exit code 2; a worker leaves it for its run to tell."""
    file = os.environ.get(ERROR_FILE)
    if file is None:
        click.echo(message, err=True)
    else:
        Path(file).write_text(message, encoding="utf-8")
    sys.exit(2)


@click.group(
    cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(package_name="divrl", prog_name="divrl-train", message="%(prog)s %(version)s")
def cli() -> None:
    """Post-train FLUX.1-Kontext for diverse structure with kept identity (DivRL).

    \b
    See it work on this computer:   divrl-train demo
    The real thing, two stages:     divrl-train explore --config explore.yaml --output runs/explore
                                    divrl-train suppress --from runs/explore --output runs/suppress

    Mistakes are told in one line; DIVRL_TRACEBACK=1 in the environment shows where they were met.
    """
    logger = logging.getLogger("divrl")
    # Of several processes one tells what all do alike; warnings are each one's own.
    logger.setLevel(logging.INFO if is_first() else logging.WARNING)
    if not any(isinstance(handler, EchoHandler) for handler in logger.handlers):
        logger.addHandler(EchoHandler())


def _one_line(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "divrl-train"
    return f"{path}: {' '.join(error.format_message().split())}; {path} --help lists what there is"


def _is_our_own(error: Exception) -> bool:
    return isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(
        ("divrl_core", "train_cli")
    )


def _words(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error} (install it with: pip install {error.name.partition('.')[0]})"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
