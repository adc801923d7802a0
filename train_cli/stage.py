"""What explore and suppress share: options, the dry run, and the way from settings to a training run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from divrl_core.config import RolloutConfig, TrainConfig
from divrl_core.settings import Settings, list_settings

from .config_file import SETTINGS_NAME, to_yaml
from .dry_run import planned_lines
from .interruption import resumable
from .options import Command, flag, number, output_folder
from .processes import arguments_of, check_processes, is_first, is_worker, run_in_processes
from .settings_options import settings_options

if TYPE_CHECKING:
    from divrl_core.training.data import RunData
    from divrl_core.training.references import ReferenceSet


def stage_options(default_output: str, kind: type[Settings] = TrainConfig) -> Callable[[Command], Command]:
    """The options of a training stage, in the order of its --help."""
    options: tuple[Callable[[Any], Any], ...] = (
        settings_options,
        output_folder(default_output, "The run folder."),
        flag("--resume", "Go on with the run in --output, from its last checkpoint."),
        number(
            "--processes",
            metavar="COUNT",
            kind=click.IntRange(min=1),
            default=1,
            help="Processes that share every update, one a GPU; results do not depend on how many.",
        ),
        flag(
            "--sharded",
            "With --processes: spread the frozen base over them (FSDP2), for a base that fits no card.",
        ),
        flag("--dry-run", "Check and print settings, data and what the run will do; load no model."),
        click.option(
            "--list-settings",
            is_flag=True,
            type=bool,
            is_eager=True,
            expose_value=False,
            callback=partial(_print_settings, kind),
            show_default="off",
            help="Print every setting with type, default, unit and meaning, and exit.",
        ),
    )

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def run_stage(
    config: TrainConfig,
    output: Path,
    *,
    resume: bool,
    processes: int,
    sharded: bool,
    dry_run: bool,
    preset: str | None = None,
) -> None:
    """Checks settings and data, then trains into `output`, or only prints what would be done."""
    refuse_used_folder(output, resume=resume, dry_run=dry_run)

    from divrl_core.training.preflight import check

    data = check(config, is_resumed=resume and has_checkpoint(output))
    if dry_run:
        planned = planned_lines(
            config, counts_of(config, data), preset=preset, processes=processes, sharded=sharded
        )
        _print_plan(config, data, planned)
        return
    go_on = f"divrl-train {config.stage} --output {output} --resume"
    share_out(processes, sharded=sharded, go_on=go_on)

    from divrl_core.training.grpo_loop import train

    with resumable(go_on):
        try:
            result = train(config, output, resume=resume, data=data)
        except KeyboardInterrupt:
            if is_first():
                _write_report(output)
            raise
    if is_first():
        click.echo(f"{result.updates} updates done; the best LoRA by held-out measures: {result.best_lora}")
        _write_report(output)


def share_out(processes: int, *, sharded: bool, go_on: str) -> None:
    """Run the command that is under way in so many processes and end with their exit code; for one do nothing."""
    context = click.get_current_context()
    if is_worker():
        return
    if processes == 1:
        if sharded:
            raise click.UsageError("--sharded needs --processes 2 or more", context)
        return
    check_processes(processes)
    arguments = arguments_of(context, without={"processes", "sharded"})
    context.exit(run_in_processes(arguments, processes, is_sharded=sharded, go_on=go_on))


def refuse_used_folder(output: Path, *, resume: bool, dry_run: bool) -> None:
    """Raises ValueError when a new run would begin in a folder that holds one; of several processes one looks."""
    if is_first() and not resume and not dry_run and (output / SETTINGS_NAME).exists():
        raise ValueError(f"{output} already holds a run; go on with it by --resume, or name another --output")


def has_checkpoint(output: Path) -> bool:
    """Whether a run can go on from a state of its own."""
    return any((output / "checkpoint").glob("update-*/state.json"))


def _write_report(output: Path) -> None:
    """report.html into the run folder; a run that has nothing to report stays as it is."""
    from divrl_core.evaluation.report import write_report

    try:
        click.echo(f"report: {write_report([output], output / 'report.html')}")
    except (ValueError, OSError) as error:
        click.echo(f"no report: {error}", err=True)


def plan_lines(config: TrainConfig) -> list[str]:
    """The numbers that follow from the settings: samples, forwards and evaluations, an update and in all."""
    grpo, rollout, run = config.grpo, config.rollout, config.run
    batches = grpo.groups_per_update * -(-grpo.group_size // grpo.micro_batch)
    work = config.work_of_a_sample
    evaluations = run.updates // run.eval_every_updates + 1
    trained_at = (
        f"{work.trained} times a sample" if config.algorithm == "nft" else f"{work.trained} of the steps"
    )
    more = {"the old policy": work.old_policy, "the KL reference": work.kl_reference}
    others = "".join(f"; {batches * count:g} more by {name}" for name, count in more.items() if count)
    return [
        f"algorithm: {config.algorithm}",
        f"an update: {grpo.samples_per_update} samples, {grpo.groups_per_update} groups of {grpo.group_size}",
        f"  rollout: {batches * rollout.steps} forwards of at most {grpo.micro_batch} samples; {rollout.steps} steps",
        f"  training: {batches * work.trained} forwards and backwards ({trained_at}){others}",
        *_window_lines(rollout),
        f"the run: {run.updates} updates, {run.updates * grpo.samples_per_update} samples, "
        f"{run.updates * grpo.optimizer_steps_per_rollout} optimizer steps",
        f"  {evaluations} evaluations of {run.eval_images} pictures in {run.eval_steps} steps",
    ]


def _window_lines(rollout: RolloutConfig) -> list[str]:
    """Where the window of noisy steps will be, if there is one."""
    if rollout.window_size is None:
        return []
    places = ", ".join(f"{window[0]}-{window[-1]}" for window in rollout.windows)
    return [f"  noisy steps: {places} in turn, {rollout.window_every_updates} updates each, and again"]


def counts_of(config: TrainConfig, data: RunData) -> dict[str, int]:
    """How many prompts and references the run will encode."""
    from divrl_core.training.encoded_pairs import pairs_of_run

    groups, run = config.grpo.groups_per_update, config.run
    met = pairs_of_run(data.train.pairs, groups_per_update=groups, updates=run.updates, seed=run.seed)
    pairs = [*met, *data.held_out.pairs]
    return {
        "prompts": len({pair.prompt for pair in pairs}),
        "references": len({pair.reference_id for pair in pairs}),
    }


def _print_plan(config: TrainConfig, data: RunData, planned: list[str]) -> None:
    lines = [
        f"train: {_count(data.train)}",
        f"held out: {_count(data.held_out)}",
        *plan_lines(config),
        "",
        *planned,
    ]
    for line in config.advice():
        click.echo(f"warning: {line}", err=True)
    click.echo(to_yaml(config) + "\n" + "\n".join(f"# {line}".rstrip() for line in lines))


def _count(references: ReferenceSet) -> str:
    pairs = references.pairs
    pictures = len({pair.reference_id for pair in pairs})
    return f"{pictures} references, {len(pairs)} (reference, prompt) pairs; masks: {references.mask_source}"


def _print_settings(
    kind: type[Settings], ctx: click.Context, _option: click.Parameter, is_asked: bool
) -> None:
    if not is_asked:
        return
    for row in list_settings(kind):
        default = "null" if row.default is None else _plain(row.default)
        unit = f" {row.unit}" if row.unit and row.default is not None else ""
        click.echo(
            f"{click.style(row.name, bold=True)}  [{row.type}; default: {default}{unit}]\n    {row.help}"
        )
    ctx.exit()


def _plain(value: object) -> str:
    return (
        str(list(value))
        if isinstance(value, tuple)
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )
