"""divrl-train evaluate: models compared on a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from divrl_core.config import BackboneConfig
from divrl_core.config_reward import BackboneName

from .dry_run import print_dry_run
from .interruption import resumable
from .options import backbone_options, device_of, flag, number, output_folder, path, seed_option, text
from .picture_options import sampling_options
from .processes import is_first
from .segmenter_options import segmenter_options
from .stage import share_out

if TYPE_CHECKING:
    from divrl_core.config import SegmenterConfig
    from divrl_core.evaluation.contest.evaluated import Evaluation

GO_ON = "the same command"


@click.command(short_help="Models compared on a benchmark: pictures, metrics, tables.")
@text(
    "--benchmark",
    metavar="PATH|pocket[:N]",
    default="pocket",
    help="DreamBench++, a folder of pictures with prompts, a .json list, or N figures of the pocket world.",
)
@click.option(
    "--model",
    "models",
    metavar="[NAME=]MODEL",
    type=str,
    multiple=True,
    default=("base",),
    show_default="base",
    help="Who takes part, once for each: see above.",
)
@text(
    "--metrics",
    metavar="NAME,...",
    absent="all that need no download",
    help="What is measured.",
)
@number(
    "--pictures-each",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    default=4,
    help="Pictures of every prompt; the k-th is made of the same noise by all models.",
)
@number(
    "--references", metavar="COUNT", kind=click.IntRange(min=1), absent="all", help="Ask of so many only."
)
@number(
    "--prompts", metavar="COUNT", kind=click.IntRange(min=1), absent="all", help="Of each its first so many."
)
@text(
    "--base",
    metavar="FOLDER_OR_ID",
    absent="what the LoRAs were trained on, else pocket",
    help="The FLUX pipeline that all models stand on: folder, hub id, pocket or pocket-text-to-image.",
)
@seed_option("Of the noise, and of the pocket world's figures.")
@sampling_options
@backbone_options()
@segmenter_options
@number(
    "--processes",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    default=1,
    help="Processes that share pictures and scoring, one a GPU; pictures do not depend on how many.",
)
@text(
    "--sort-by", metavar="METRIC", absent="one of identity", help="What pictures in the report are sorted by."
)
@path(
    "--samples",
    metavar="FOLDER",
    absent="none",
    help="Write the pictures there too, a folder a model, as DreamBench++'s own scripts read them.",
)
@output_folder("runs/evaluation", "The evaluation's folder; what is there of the same settings is kept.")
@flag("--blind", "Make nothing: let a person judge the pictures in --output, in a browser, models unnamed.")
@text("--judge", metavar="NAME", default="judge", help="With --blind: who judges; answers are kept by name.")
@number(
    "--pairs",
    metavar="COUNT",
    kind=click.IntRange(min=1),
    absent="all",
    help="With --blind: at most so many.",
)
@number(
    "--port",
    metavar="PORT",
    kind=click.IntRange(0, 65535),
    absent="any",
    help="With --blind: where it listens.",
)
@flag("--dry-run", "Check every input, tell what would be done and what is there; load and write nothing.")
def evaluate(
    benchmark: str,
    models: tuple[str, ...],
    metrics: str | None,
    pictures_each: int,
    references: int | None,
    prompts: int | None,
    base: str | None,
    seed: int,
    steps: int,
    guidance: float | None,
    size_px: tuple[int, int] | None,
    layout: str | None,
    dtype: str,
    device: str,
    backbone: BackboneName,
    backbone_path: str | None,
    segmenter: SegmenterConfig | None,
    processes: int,
    sort_by: str | None,
    samples: Path | None,
    output: Path,
    blind: bool,
    judge: str,
    pairs: int | None,
    port: int | None,
    dry_run: bool,
) -> None:
    """Compare models on a benchmark: each makes the same pictures, each picture is measured alike.

    \b
    --model base                    the model as it is
    --model runs/suppress@0.5       a run's best LoRA, or a LoRA file, at a strength
    --model best-of-8               of 8 candidates the gated best; best-of-8+runs/x: of a LoRA's
    --model text-noise-0.2          noise on the prompt's embeddings; also with +runs/x
    --model NAME=pictures/          finished pictures of any other system, REFERENCE/NUMBER_K.png

    \b
    divrl-train evaluate --benchmark pocket:16 --model base --model runs/suppress --model best-of-8

    Killed at any moment, the same command goes on. Open report.html in the folder; then judge for yourself:

    \b
    divrl-train evaluate --output runs/evaluation --blind
    """
    check_mode(click.get_current_context(), blind=blind)
    if blind:
        judge_blind(output, judge=judge, seed=seed, pairs=pairs, port=port or 0)
        return

    from divrl_core.evaluation.contest.opening import Words, open_contest
    from divrl_core.evaluation.contest.results import samples_problems
    from divrl_core.evaluation.contest.settings import ContestSettings

    settings = ContestSettings(
        base=base,
        pictures_each=pictures_each,
        seed=seed,
        steps=steps,
        guidance=guidance,
        size_px=_side(size_px),
        layout=layout,
        dtype=dtype,
        device=device_of(device),
        backbone=BackboneConfig(name=backbone, path=backbone_path),
        segmenter=segmenter,
    )
    words = Words(
        benchmark=benchmark,
        models=models,
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics else (),
        references=references,
        prompts=prompts,
        sort_by=sort_by,
    )
    contest = open_contest(words, settings, downloads=not dry_run)
    if samples is not None and (problems := samples_problems(contest, samples, output)):
        raise ValueError("\n".join(problems))
    if dry_run:
        from divrl_core.evaluation.contest.dry_run import contest_lines

        print_dry_run(contest_lines(contest, output), output=f"pictures, scores and tables in {output}")
        return
    share_out(processes, sharded=False, go_on=GO_ON)

    from divrl_core.evaluation.contest.results import write_results
    from divrl_core.evaluation.contest.run import evaluate_models
    from divrl_core.training.start import join_processes

    with resumable(GO_ON):
        evaluation = evaluate_models(
            contest,
            output,
            join_processes(output, device=settings.device),
            write=lambda done: write_results(contest, done, sort_by=sort_by, samples=samples),
        )
    if is_first():
        tell(evaluation)


def tell(evaluation: Evaluation) -> None:
    """What came of it, in a few lines."""
    from divrl_core.evaluation.evaluation_pages.write import PAGE
    from divrl_core.evaluation.standings.standings import Standings
    from divrl_core.evaluation.standings.verdict import headline

    click.echo(headline(Standings(evaluation)))
    click.echo(f"report: {evaluation.folder / PAGE}")


def judge_blind(output: Path, *, judge: str, seed: int, pairs: int | None, port: int) -> None:
    """Serve the blind page until Ctrl-C, then tell what came of it where the judge has ended; so do later reports."""
    from divrl_core.evaluation.blind.agreement import agreement_lines, agreement_of
    from divrl_core.evaluation.blind.answers import answers_file, ended_judgements, read_judgement
    from divrl_core.evaluation.blind.server import open_blind
    from divrl_core.evaluation.contest.evaluated import read_evaluation

    evaluation = read_evaluation(output)
    with open_blind(evaluation, judge=judge, seed=seed, most=pairs, port=port) as server:
        click.echo(f"judge at {server.url}; every answer is kept at once, Ctrl-C ends")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("")
    own = read_judgement(answers_file(output, judge))
    if not own.is_ended:
        click.echo(
            f"{len(own.answers)} pairs of {judge} are kept; whose pictures they were is told, here and in reports, "
            "when the page's End is pressed: the same command goes on"
        )
        return
    agreement = agreement_of(evaluation, ended_judgements(output))
    if agreement is None:
        click.echo("nothing was judged")
        return
    click.echo("\n".join(agreement_lines(agreement)))


BLIND_TOO = frozenset({"output", "blind", "seed"})
BLIND_ALONE = frozenset({"judge", "pairs", "port"})


def check_mode(context: click.Context, *, blind: bool) -> None:
    """Raise UsageError for options that say nothing in the mode that was asked for."""
    given = [
        parameter
        for parameter in context.command.params
        if parameter.name is not None
        and context.get_parameter_source(parameter.name) == click.core.ParameterSource.COMMANDLINE
    ]
    idle = [
        parameter.opts[0]
        for parameter in given
        if (parameter.name in BLIND_ALONE if not blind else parameter.name not in BLIND_TOO | BLIND_ALONE)
    ]
    if idle:
        mode = "with --blind, which makes nothing" if blind else "without --blind"
        raise click.UsageError(f"{', '.join(idle)} says nothing {mode}; leave it out")


def _side(size_px: tuple[int, int] | None) -> int | None:
    """The side of square pictures. Raises ValueError for others: references are square, and so is what is compared."""
    if size_px is not None and size_px[0] != size_px[1]:
        raise ValueError(f"--size: an evaluation's pictures are square, got {size_px[1]}x{size_px[0]}")
    return None if size_px is None else size_px[0]
