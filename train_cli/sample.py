"""divrl-train sample: pictures of a subject, with a LoRA at one or several strengths."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .dry_run import print_dry_run
from .options import NumberList, device_of, flag, numbers, output_folder
from .picture_options import check_subject, sampling_options, subject_options

if TYPE_CHECKING:
    from divrl_core.config import SegmenterConfig


@click.command(short_help="Pictures of a subject, with a LoRA at one or several strengths.")
@subject_options
@numbers(
    "--strength",
    "strengths",
    kind=NumberList(whole=False),
    default="1.0",
    help="Strengths of the LoRA, a row each; 1 is as trained.",
)
@numbers(
    "--seeds",
    kind=NumberList(whole=True, at_least=0),
    default="0,1,2,3",
    help="Seeds, a column each; the same seed is the same noise in every row.",
)
@sampling_options
@flag("--scores", "Write nSSM and VSM under each picture.")
@output_folder("runs/sample", "Where pictures and sheet.jpg are written.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def sample(
    reference: Path,
    mask: Path | None,
    segmenter: SegmenterConfig | None,
    prompt: str,
    model: str | None,
    lora: Path | None,
    strengths: tuple[float, ...],
    seeds: tuple[int, ...],
    steps: int,
    guidance: float | None,
    size_px: tuple[int, int] | None,
    layout: str | None,
    dtype: str,
    device: str,
    scores: bool,
    output: Path,
    dry_run: bool,
) -> None:
    """Make a picture for each seed, of the base model and of the LoRA at each strength, and a contact sheet.

    \b
    divrl-train sample --reference fox.png --prompt "a toy fox on a blue floor" \\
        --lora runs/suppress/lora/best.safetensors --strength 0.5,1.0
    """
    check_subject(reference, mask, prompt, lora)

    if dry_run:
        from divrl_core.evaluation.dry_runs import Request, sampling_lines

        asked = Request(
            model=model,
            reference=reference,
            mask=mask,
            segmenter=segmenter,
            prompt=prompt,
            lora=lora,
            strengths=strengths,
            seeds=tuple(int(seed) for seed in seeds),
            steps=steps,
            size_px=size_px,
            layout=layout,
            dtype=dtype,
            device=device_of(device),
        )
        print_dry_run(sampling_lines(asked), output=f"the pictures and {output}/sheet.jpg")
        return

    from divrl_core.evaluation.sample import sample_sheet

    sheet = sample_sheet(
        model=model,
        reference=reference,
        mask=mask,
        segmenter=segmenter,
        prompt=prompt,
        lora=lora,
        strengths=strengths,
        seeds=seeds,
        steps=steps,
        guidance_scale=guidance,
        size_px=size_px,
        layout=layout,
        dtype=dtype,
        device=device_of(device),
        with_scores=scores,
        output=output,
    )
    click.echo(f"wrote {sheet}")
