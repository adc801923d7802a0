"""What the commands that make pictures are given: subject, prompt, model, LoRA, and how pictures are sampled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .options import Command, SizeType, choice, number, path, text
from .segmenter_options import segmenter_options


def subject_options(command: Command) -> Command:
    """`--reference --mask --segmenter... --prompt --model --lora`, in this order."""
    return _all(
        command,
        path("--reference", metavar="PICTURE", help="The subject's picture."),
        path(
            "--mask",
            metavar="PICTURE",
            absent="alpha channel, else --segmenter, else the whole picture",
            help="The subject in it; only scores and the framing use it.",
        ),
        segmenter_options,
        text("--prompt", metavar="TEXT", help="What to show it doing, or where."),
        text(
            "--model",
            metavar="FOLDER_OR_ID",
            absent="what the LoRA was trained on, else pocket",
            help="A FLUX pipeline: folder, hub id, pocket or pocket-text-to-image (embedded).",
        ),
        path(
            "--lora",
            metavar="FILE_OR_RUN",
            absent="none",
            help="LoRA file, or a run folder (its best).",
        ),
    )


def sampling_options(command: Command) -> Command:
    """`--steps --guidance --size --layout --dtype --device`, in this order."""
    return _all(
        command,
        number("--steps", metavar="STEPS", kind=click.IntRange(min=1), default=28, help="Sampling steps."),
        number(
            "--guidance",
            metavar="NUMBER",
            kind=click.FloatRange(min=0),
            absent="2.5, or a cfm LoRA's own",
            help="The embedded guidance.",
        ),
        click.option(
            "--size",
            "size_px",
            metavar="PX|WIDTHxHEIGHT",
            type=SizeType(),
            show_default="the model's own",
            help="Side of square pictures, or width and height, in pixels; multiples of 16.",
        ),
        click.option(
            "--layout",
            metavar="NAME",
            type=click.Choice(("kontext", "width", "diagonal", "none")),
            show_default="the LoRA's, else the pipeline's",
            help="Where the reference lies: kontext, width (masked CFM), diagonal, or none (left out).",
        ),
        choice("--dtype", "float32", "bfloat16", "float16", help="Precision of the model."),
        text(
            "--device",
            metavar="NAME",
            default="auto",
            help="Where it runs: cpu, cuda, mps; auto = a GPU if there is one.",
        ),
    )


def check_subject(reference: Path, mask: Path | None, prompt: str, lora: Path | None) -> None:
    """Raises ValueError for an empty prompt, FileNotFoundError naming the option whose file is missing."""
    if not prompt.strip():
        raise ValueError("--prompt must not be empty")
    for option, file in (("--reference", reference), ("--mask", mask), ("--lora", lora)):
        if file is not None and not file.exists():
            raise FileNotFoundError(f"{option}: there is no file {file}")


def _all(command: Command, *options: Callable[[Any], Any]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
