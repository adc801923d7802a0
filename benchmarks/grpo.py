"""What a group costs to sample and to learn from, against Flow-GRPO as it is usually written; all from one run.

    python benchmarks/grpo.py [--threads 1] [--repeats 5] [--clock wall] [--json FILE] [--quick]

One group of 21 samples x 6 steps at 128 px on the tiny Kontext (tiny_kontext.py), float32, LoRA, solver, noise and
micro-batch of the default settings. A rollout is everything from prompt and picture to decoded samples: encoding too,
once a group (ours; in a run it is once a run) or once a sample (plain). Training is the gradient of every trained step
of every sample, clipping, and one optimizer step. The rows:

- `plain`: plain_grpo.py, 512 text tokens, no gradient checkpointing;
- `ours, same work`: the product's functions with 512 text tokens, no gradient checkpointing, the same steps trained;
- `ours, checkpointing`: the same with the default's gradient checkpointing, which costs time to save memory;
- `ours, default`: the default settings as they are: 128 text tokens and gradient checkpointing.

They take turns, each repeat beginning with another. Before anything is timed, plain and ours get the same noise, and
their latents, log-probabilities and gradients must agree.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import click
import diffusers
import torch
import transformers
from cfm import processor
from grpo_rivals import Ours, Plain, Rival, agreement
from nssm import CLOCKS
from run_options import run_options
from tiny_kontext import PAIR, SIZE_PX, TEXT_TOKENS, start_weights, write_pipeline

from divrl_core.config import TrainConfig
from divrl_core.models.text import FULL_TEXT_TOKENS


@dataclass(frozen=True)
class Cost:
    """Seconds of rollout and training in each repeat."""

    rollout: tuple[float, ...]
    training: tuple[float, ...]

    @property
    def both(self) -> tuple[float, ...]:
        """Their sums."""
        return tuple(a + b for a, b in zip(self.rollout, self.training, strict=True))


def measure(rivals: Sequence[Rival], repeats: int, clock: Callable[[], float]) -> list[Cost]:
    """Time a group of each in every repeat, each repeat beginning with another; one group of each goes before."""
    taken: list[list[tuple[float, float]]] = [[] for _ in rivals]
    for repeat in range(-1, repeats):
        for turn in range(len(rivals)):
            place = (repeat + turn) % len(rivals)
            gc.collect()
            begun = clock()
            rivals[place].roll_out()
            sampled = clock()
            rivals[place].learn()
            learned = clock()
            if repeat >= 0:
                taken[place].append((sampled - begun, learned - sampled))
    return [Cost(tuple(a for a, _ in rows), tuple(b for _, b in rows)) for rows in taken]


def coding(plain: Plain, clock: Callable[[], float], repeats: int = 3) -> tuple[float, float]:
    """Median seconds that plain spends on a group's encoding and decoding, measured alone."""
    size, part = plain.config.grpo.group_size, plain.config.grpo.micro_batch
    seconds: list[tuple[float, float]] = []
    for _ in range(repeats):
        begun = clock()
        plain.grpo.encode(PAIR.prompt, plain.reference, part)
        encoded = clock()
        with torch.no_grad():
            plain.grpo.decode(plain.batches[0].latents[0])
        seconds.append((encoded - begun, clock() - encoded))
    return median(a for a, _ in seconds) * size / part, median(b for _, b in seconds) * size / part


def ratios(costs: Sequence[Cost]) -> list[tuple[float, float, float]]:
    """Least, median and greatest ratio of each to the first within a repeat, rollout and training together."""
    first = costs[0].both
    rows = [[mine / theirs for mine, theirs in zip(cost.both, first, strict=True)] for cost in costs]
    return [(min(row), median(row), max(row)) for row in rows]


@click.command()
@run_options(*CLOCKS, repeats=5)
@click.option("--group-size", type=click.IntRange(min=2), default=21, show_default=True, metavar="SAMPLES")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write all seconds here."
)
@click.option("--quick", is_flag=True, help="A group of 6, one repeat.")
def main(
    threads: int, repeats: int, group_size: int, clock: str, json_file: Path | None, quick: bool
) -> None:
    """Print the time of a group's rollout and training, ours against plain Flow-GRPO."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    if quick:
        repeats, group_size = 1, 6
    config = TrainConfig.explore()
    config = replace(config, grpo=replace(config.grpo, group_size=group_size, groups_per_update=1))
    with tempfile.TemporaryDirectory() as name:
        folder = write_pipeline(Path(name))
        start = start_weights(folder, config.lora)
        found = agreement(folder, start, config)
        if not found.holds:
            raise click.ClickException(f"plain and ours are not the same computation: {found}")
        plain = Plain(folder, start, config)
        rivals: dict[str, Rival] = {
            "plain": plain,
            "ours, same work": Ours(folder, start, config, text_tokens=TEXT_TOKENS, checkpointing=False),
            "ours, checkpointing": Ours(folder, start, config, text_tokens=TEXT_TOKENS, checkpointing=True),
            "ours, default": Ours(
                folder,
                start,
                config,
                text_tokens=FULL_TEXT_TOKENS,
                checkpointing=config.model.gradient_checkpointing,
            ),
        }
        costs = measure(list(rivals.values()), repeats, CLOCKS[clock])
        encoding, decoding = coding(plain, CLOCKS[clock])
    header = (
        f"A group of {group_size} x {config.rollout.steps} steps at {SIZE_PX} px, {config.rollout.trained_steps} steps "
        f"trained, micro-batch {config.grpo.micro_batch}; float32; LoRA of rank {config.lora.rank} on "
        f"{config.lora.targets}; {clock} seconds of {repeats} repeats; {threads} thread(s) of a machine with "
        f"{os.cpu_count()} CPUs ({processor()}); torch {torch.__version__}, diffusers {diffusers.__version__}"
    )
    click.echo(header)
    click.echo(f"With the same noise {found}\n")
    click.echo("| | text tokens | checkpointing | rollout s | training s | both s | ratio to plain |")
    click.echo("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for (name, rival), cost, (least, middle, most) in zip(rivals.items(), costs, ratios(costs), strict=True):
        cells = (
            name,
            str(rival.text_tokens),
            "yes" if rival.has_checkpointing else "no",
            *(
                f"{min(part):.2f} {median(part):.2f} {max(part):.2f}"
                for part in (cost.rollout, cost.training, cost.both)
            ),
            f"{middle:.2f} ({least:.2f}..{most:.2f})",
        )
        click.echo(f"| {' | '.join(cells)} |")
    click.echo(
        "\nSeconds: least, median, greatest; ratio: median (least..greatest) over the repeats\n"
        f"Of plain's rollout, encoding prompt and reference for each sample takes {encoding:.2f} s, decoding "
        f"{decoding:.2f} s"
    )
    if json_file is not None:
        rows = {
            name: {"rollout": cost.rollout, "training": cost.training}
            for name, cost in zip(rivals, costs, strict=True)
        }
        result = {
            "header": header,
            "agreement": asdict(found),
            "seconds": rows,
            "plain_encoding": encoding,
            "plain_decoding": decoding,
        }
        json_file.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
