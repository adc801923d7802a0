"""What --help says, and that saying it imports nothing heavy. Times are recorded, not asserted."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from train_cli.main import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "diffusers", "transformers", "peft", "accelerate", "datasets", "matplotlib", "PIL")


def every_command(group: click.Group = cli, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every command and group, the outermost first."""
    yield words
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*words, name))
        else:
            yield (*words, name)


def command_of(words: tuple[str, ...]) -> click.Command:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    return command


def options_of(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


EVERY_COMMAND = list(every_command())
EVERY_OPTION = [
    pytest.param(option, id=" ".join((*words, option.opts[0])))
    for words in EVERY_COMMAND
    for option in options_of(command_of(words))
    if option.name not in ("help", "version")
]


def test_the_commands_of_the_readme_are_there() -> None:
    words = {" ".join(command) for command in EVERY_COMMAND}
    assert {
        "explore",
        "suppress",
        "convert",
        "sample",
        "score",
        "inspect attention",
        "demo",
        "report",
        "pocket build",
        "pocket heads",
    } <= words


@pytest.mark.parametrize("words", EVERY_COMMAND, ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...], record_property: pytest.RecordProperty) -> None:
    code = f"""
import sys
from train_cli.main import cli
try:
    cli({[*words, "--help"]!r}, prog_name="divrl-train")
except SystemExit as stop:
    assert not stop.code, stop.code
print("HEAVY:", sorted(name for name in {HEAVY!r} if name in sys.modules))
"""
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    record_property("seconds", time.perf_counter() - began)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Usage: " + " ".join(("divrl-train", *words)))
    assert result.stdout.strip().endswith("HEAVY: []")


def test_main_help_shows_every_command_with_its_sentence() -> None:
    help_text = CliRunner().invoke(cli, ["--help"]).output
    for name in COMMANDS:
        assert f"  {name} " in help_text
        assert command_of((name,)).get_short_help_str(100) in help_text


@pytest.mark.parametrize("option", EVERY_OPTION)
def test_every_option_has_type_help_and_a_shown_default(option: click.Option) -> None:
    assert option.help
    assert option.help.endswith(".")
    assert not isinstance(option.type, click.types.UnprocessedParamType)
    assert option.is_flag or option.metavar, "an option that takes a value shows its unit or kind"
    assert option.required or option.show_default, "what happens without it is not shown"


def test_settings_are_listed_with_type_default_unit_and_meaning() -> None:
    result = CliRunner().invoke(cli, ["explore", "--list-settings"])
    assert result.exit_code == 0
    assert "grpo.group_size  [whole number; default: 21 samples]" in result.output
    assert "optim.eps  [number; default: 1e-15]" in result.output
    assert "rollout.stochastic_steps  [list of whole numbers; default: [0, 1, 2, 3, 4]]" in result.output
