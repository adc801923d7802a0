"""Short runs to tune an algorithm before the experiment: what each setting has reached after a few updates.

    python benchmarks/tune_algorithms.py first-two optim.lr=3.5e-4 optim.lr=7e-4 optim.lr=1.4e-3
    python benchmarks/tune_algorithms.py nft optim.lr=7e-4,nft.beta=1 optim.lr=7e-4,nft.beta=0.1

An arm of `divrl-train experiment algorithms`, and for each variant the settings laid over it. A seed of its own, which
the experiment does not use. Finished variants are kept in --output and not run again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import yaml

from divrl_core.config import TrainConfig, apply_overrides, from_mapping, to_mapping
from divrl_core.evaluation.algorithm_plan import algorithm_plan
from divrl_core.evaluation.experiment_report import markdown_table
from divrl_core.evaluation.stage_runs import run_stage

SEED = 100
PICTURES = 24


def variant(arm: str, overrides: str, *, updates: int, threads: int) -> TrainConfig:
    """The settings of an arm with `name=value,name=value` laid over them, as a short run."""
    config = algorithm_plan(seed=SEED, threads=threads).arm(arm).config
    assert isinstance(config, TrainConfig)
    run = replace(
        config.run,
        updates=updates,
        eval_every_updates=updates // 2,
        save_every_updates=updates // 2,
        sample_every_updates=updates,
        eval_images=PICTURES,
        sample_references=1,
    )
    given = apply_overrides(to_mapping(replace(config, run=run)), overrides.split(","), parse=yaml.safe_load)
    return from_mapping(TrainConfig, given, overrides)


def row_of(overrides: str, folder: Path) -> list[str]:
    """What a finished variant has reached: at each evaluation, and at which cost in all."""
    rows: list[dict[str, Any]] = [
        json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]
    held_out = [row for row in rows if row["kind"] == "heldout"]
    trained = [row for row in rows if row["kind"] == "train"]
    return [
        overrides,
        *(
            " ".join(f"{row[name]:.3f}" for row in held_out)
            for name in ("selection", "clean_share", "turned_share")
        ),
        f"{sum(row['model_evaluations'] for row in trained) / 1000:.1f}",
        f"{sum(row['cpu_seconds'] for row in trained):.0f}",
    ]


@click.command()
@click.argument("arm")
@click.argument("variants", nargs=-1, required=True)
@click.option("--updates", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/tune"))
def main(arm: str, variants: tuple[str, ...], updates: int, threads: int, output: Path) -> None:
    """Run every variant of an arm that is not done yet, and print what all have reached."""
    heading = ["variant", "held-out reward", "whole", "in another pose", "thousand evaluations", "cpu s"]
    rows = []
    for overrides in variants:
        folder = output / f"{arm}-{updates}" / overrides.replace(",", "_")
        run_stage(variant(arm, overrides, updates=updates, threads=threads), folder)
        rows.append(row_of(overrides, folder))
        click.echo(markdown_table([heading, *rows]))


if __name__ == "__main__":
    main()
