"""divrl-train sample: pictures of a subject, with a LoRA at one or several strengths."""

from __future__ import annotations

from pathlib import Path

import click

from .options import NumberList, SizeType, choice, device_of, flag, number, numbers, output_folder, path, text


@click.command(short_help="Pictures of a subject, with a LoRA at one or several strengths.")
@path("--reference", metavar="PICTURE", help="The subject's picture.")
@path(
    "--mask",
    metavar="PICTURE",
    absent="alpha channel, else the whole picture",
    help="The subject in it; only --scores and the framing use it.",
)
@text("--prompt", metavar="TEXT", help="What to show it doing, or where.")
@text(
    "--model",
    metavar="FOLDER_OR_ID",
    default="pocket",
    help="A FLUX pipeline: folder, hub id, pocket or pocket-text-to-image (embedded).",
)
@path(
    "--lora",
    metavar="FILE_OR_RUN",
    absent="none",
    help="LoRA file, or a run folder (its best); the sheet shows it beside the base model.",
)
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
@number("--steps", metavar="STEPS", kind=click.IntRange(min=1), default=28, help="Sampling steps.")
@number(
    "--guidance",
    metavar="NUMBER",
    kind=click.FloatRange(min=0),
    absent="2.5, or a cfm LoRA's own",
    help="The embedded guidance.",
)
@click.option(
    "--size",
    "size_px",
    metavar="PX|WIDTHxHEIGHT",
    type=SizeType(),
    show_default="the model's own",
    help="Side of square pictures, or width and height, in pixels; multiples of 16.",
)
@click.option(
    "--layout",
    metavar="NAME",
    type=click.Choice(("kontext", "width", "diagonal", "none")),
    show_default="the LoRA's, else the pipeline's",
    help="Where the reference lies: kontext, width (masked CFM), diagonal, or none (left out).",
)
@choice("--dtype", "float32", "bfloat16", "float16", help="Precision of the model.")
@text(
    "--device",
    metavar="NAME",
    default="auto",
    help="Where it runs: cpu, cuda, mps; auto = a GPU if there is one.",
)
@flag("--scores", "Write nSSM and VSM under each picture.")
@output_folder("runs/sample", "Where pictures and sheet.jpg are written.")
def sample(
    reference: Path,
    mask: Path | None,
    prompt: str,
    model: str,
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
) -> None:
    """Make a picture for each seed, of the base model and of the LoRA at each strength, and a contact sheet.

    \b
    divrl-train sample --reference fox.png --prompt "a toy fox on a blue floor" \\
        --lora runs/suppress/lora/best.safetensors --strength 0.5,1.0
    """
    if not prompt.strip():
        raise ValueError("--prompt must not be empty")
    for option, file in (("--reference", reference), ("--mask", mask), ("--lora", lora)):
        if file is not None and not file.exists():
            raise FileNotFoundError(f"{option}: there is no file {file}")

    from divrl_core.evaluation.sample import sample_sheet

    sheet = sample_sheet(
        model=model,
        reference=reference,
        mask=mask,
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
