"""The full-size job on one GPU: what the plan says, what is measured, whether the ratio is 1.

FLUX.1-Kontext's published architecture (19 + 38 blocks, 11.9 billion parameters) and the reward backbones' with random
weights, which cost what real ones do; prompts and references are random tensors of the real shapes. Groups are
sampled, learned from and scored by the run's own functions. Run on a machine with a GPU:

    python benchmarks/full_size.py --json full-size.json
    python benchmarks/full_size.py --json full-size.json --only algorithms --only backbones
    python benchmarks/full_size.py --table full-size.json      # beside what the plan says; needs no GPU

Parts, in the order in which they run: backbones (of the reward), decoding (the VAE), algorithms (Flow-GRPO, Flow-DPPO,
DiffusionNFT), bases (each way to hold the base). The file is written after each case, and a case that fails leaves the
others alone.

`--blocks 1 1` tries the script itself with a block of each kind, small groups and small pictures for the backbones, on
a CPU too, where no memory is measured; `--size 64` makes that quick.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from accelerate import Accelerator
from full_size_backbones import BACKBONES_MEASURED, measure_backbone, measure_decoding, small
from full_size_cases import ALGORITHMS_COMPARED, BASES, Case
from full_size_group import measure
from full_size_meter import free
from full_size_model import write_configs
from full_size_table import line, tables

from divrl_core.models.hub import PipelineFolder
from divrl_core.training.processes import Processes

PARTS = ("backbones", "decoding", "algorithms", "bases")
GROUP, SMALL_GROUP = 21, 2


@dataclass(frozen=True, kw_only=True)
class Job:
    """One measurement: the parts it belongs to, the list in the file that it goes to, what it is of, how it is made."""

    parts: tuple[str, ...]
    key: str
    case: dict[str, Any]
    run: Callable[[], dict[str, Any]]

    def is_chosen(self, only: Sequence[str]) -> bool:
        """Whether it was asked for, by its part or by its name."""
        return not only or bool({*self.parts, self.case["name"]} & set(only))


def jobs(
    folder: PipelineFolder, processes: Processes, *, size_px: int, repeats: int, is_trial: bool
) -> Iterator[Job]:
    """Everything that can be measured, in order."""
    device = processes.device
    for backbone in BACKBONES_MEASURED:
        seen = small(backbone) if is_trial else replace(backbone, size_px=size_px)
        yield Job(
            parts=("backbones",),
            key="backbones",
            case=asdict(seen),
            run=partial(measure_backbone, seen, device, repeats),
        )
    group = SMALL_GROUP if is_trial else GROUP
    yield Job(
        parts=("decoding",),
        key="decoding",
        case={"name": "VAE", "pictures": group, "size_px": size_px},
        run=partial(measure_decoding, folder, size_px, group, device, repeats),
    )
    for case in dict.fromkeys((*ALGORITHMS_COMPARED, *BASES)):
        tried = _small_group(case) if is_trial else case
        taken = replace(tried, size_px=size_px)
        named = {"algorithms": ALGORITHMS_COMPARED, "bases": BASES}
        yield Job(
            parts=tuple(part for part, cases in named.items() if case in cases),
            key="cases",
            case=asdict(taken),
            run=partial(measure, folder, taken, processes, repeats),
        )


def attempt(job: Job) -> dict[str, Any]:
    """What the job measured, or why it did not."""
    try:
        free()
        return job.run()
    except Exception as error:  # whatever one case dies of, the others are measured
        return {"case": job.case, "error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}


def _small_group(case: Case) -> Case:
    """The same with a group of two."""
    return replace(case, group_size=SMALL_GROUP, micro_batch=min(SMALL_GROUP, case.micro_batch))


def _check_names(only: Sequence[str]) -> None:
    """Refuse a name of nothing."""
    cases = [case.name for case in (*BACKBONES_MEASURED, *ALGORITHMS_COMPARED, *BASES)]
    known = list(dict.fromkeys((*PARTS, *cases, "VAE")))
    for name in only:
        if name not in known:
            raise click.BadParameter(
                f"there is no {name!r}; there are {'; '.join(known)}", param_hint="--only"
            )


@click.command()
@click.option(
    "--json", "output", type=click.Path(path_type=Path), help="Write everything measured to this file."
)
@click.option(
    "--only", multiple=True, metavar="NAME", help=f"{', '.join(PARTS)}, or a case; all unless given."
)
@click.option("--repeats", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--blocks",
    type=click.IntRange(min=1),
    nargs=2,
    help="A trial with so many double and single blocks; the real numbers unless given.",
)
@click.option(
    "--size", type=click.IntRange(min=64), default=512, show_default=True, help="Side of the pictures, in px."
)
@click.option(
    "--table", "shown", type=click.Path(path_type=Path, exists=True), help="Print a file's tables and exit."
)
@click.option("--seconds", type=float, default=1e9, help="Begin no case after this many seconds.")
def main(
    output: Path | None,
    only: tuple[str, ...],
    repeats: int,
    blocks: tuple[int, int] | None,
    size: int,
    shown: Path | None,
    seconds: float,
) -> None:
    """Measure every case, one after the other, and print a line of each."""
    if shown is not None:
        for words in tables(shown):
            click.echo(words)
        return
    _check_names(only)
    if not torch.cuda.is_available() and blocks is None:
        raise click.ClickException("a CUDA GPU is needed: this measures the full-size model")
    began = time.monotonic()
    processes = Processes(Accelerator())
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
    }
    with TemporaryDirectory() as name:
        folder = write_configs(Path(name), blocks)
        for job in jobs(folder, processes, size_px=size, repeats=repeats, is_trial=blocks is not None):
            begun = time.monotonic() - began
            if not job.is_chosen(only) or begun > seconds:
                continue
            row = attempt(job)
            row["took_seconds"] = round(time.monotonic() - began - begun, 1)
            found.setdefault(job.key, []).append(row)
            click.echo(f"{line(row)} [{row['took_seconds']} s]")
            if output:
                output.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
