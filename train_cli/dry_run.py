"""What `--dry-run` adds to a training command: the plan of the run on the machine it stands on, as comment lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import click

from divrl_core.config import TrainConfig
from divrl_core.config_cfm import CfmConfig

from .presets import preset_card


def planned_lines(
    config: TrainConfig | CfmConfig,
    counts: Mapping[str, int],
    *,
    preset: str | None,
    processes: int,
    sharded: bool,
) -> list[str]:
    """The plan for the preset's card, else for this computer's; where the model cannot be reached, that in one line."""
    from divrl_core.training.cards import card_here, card_of
    from divrl_core.training.plan_text import plan_lines
    from divrl_core.training.run_plan import plan_run

    card = replace(card_of(preset_card(preset)) if preset else card_here(), count=1)
    try:
        plan = plan_run(config, card=card, processes=processes, is_sharded=sharded, counts=counts)
    except OSError as error:
        return [f"memory and work: not planned: {error}"]
    return plan_lines(plan)


def print_dry_run(lines: list[str], *, output: str | None = None) -> None:
    """What a command would do, a line each; nothing was written."""
    for line in lines:
        click.echo(line)
    if output is not None:
        click.echo(f"would write: {output}")
    click.echo("dry run: nothing was loaded or written")
