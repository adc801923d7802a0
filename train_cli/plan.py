"""divrl-train plan: what a run will take, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from divrl_core.config import TrainConfig
from divrl_core.config_cfm import CfmConfig

from .config_file import resolve
from .options import flag, number, text
from .presets import preset_card
from .settings_options import settings_options

if TYPE_CHECKING:
    from divrl_core.training.run_plan import RunPlan

FROM_EXPLORE = "(explore's LoRA)"  # stands for the file that suppress will go on from


@click.command(short_help="What a run takes: memory, TFLOP, time; whether it fits a card.")
@click.argument("stage", metavar="explore|suppress|cfm", type=click.Choice(("explore", "suppress", "cfm")))
@settings_options
@text(
    "--card",
    metavar="NAME",
    absent="the preset's, else 24, 48 and 80 GB are told",
    help="A card: rtx-4090, a6000, a100-80gb, h100, a size (24GB), several (8x80GB), or cpu.",
)
@number(
    "--processes",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    absent="as many as cards",
    help="Processes that share every update, one a card.",
)
@flag("--sharded", "The frozen base spread over the processes (FSDP2).")
@number(
    "--rate",
    metavar="TFLOPS",
    kind=click.FLOAT,
    absent="30% of the card's peak, as one H200 reached",
    help="A measured rate, in TFLOP a second.",
)
@flag("--json", "Print everything as JSON: bytes, TFLOP, seconds.")
def plan(
    stage: str,
    preset: str | None,
    config_file: Path | None,
    overrides: tuple[str, ...],
    card: str | None,
    processes: int | None,
    sharded: bool,
    rate: float | None,
    json: bool,
) -> None:
    """Plan a run from the model's configuration: memory by part and phase, TFLOP, time; no weights are read.

    Does it not fit the card, the plan says what to change; each change was planned again.

    \b
    divrl-train plan explore --preset 24gb
    divrl-train plan explore --card rtx-4090 --set model.path=black-forest-labs/FLUX.1-Kontext-dev \\
        --set model.dtype=bfloat16
    divrl-train plan cfm --preset 8x80gb --sharded --json
    """
    config = planned_settings(stage, preset, config_file, overrides)

    from divrl_core.training.cards import card_of
    from divrl_core.training.run_plan import plan_run

    named = card or (preset_card(preset) if preset else None)
    made = plan_run(
        config,
        card=None if named is None else card_of(named),
        processes=processes,
        is_sharded=sharded,
        rate_tflops=rate,
    )
    for line in config.advice():
        click.echo(f"warning: {line}", err=True)
    _print(made, as_json=json)


def planned_settings(
    stage: str, preset: str | None, config_file: Path | None, overrides: tuple[str, ...]
) -> TrainConfig | CfmConfig:
    """The settings of the run that is planned; suppress needs no LoRA yet."""
    if stage == "cfm":
        return resolve("cfm", config_file=config_file, overrides=overrides, preset=preset, kind=CfmConfig)
    if stage == "suppress" and not any(word.startswith("run.init_lora=") for word in overrides):
        overrides = (*overrides, f"run.init_lora={FROM_EXPLORE}")
    return resolve(stage, config_file=config_file, overrides=overrides, preset=preset)


def _print(made: RunPlan, *, as_json: bool) -> None:
    if as_json:
        content: dict[str, Any] = made.as_json()
        click.echo(json.dumps(content, indent=2))
        return

    from divrl_core.training.plan_text import plan_lines

    click.echo("\n".join(plan_lines(made)))
