"""The options that name a segmentation model for subjects whose picture brings no mask."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from divrl_core.config import SegmenterConfig

from .options import Command, choice, number, text


def segmenter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--segmenter` and how it is asked; the command gets one SegmenterConfig as `segmenter`, or None."""

    @wraps(command)
    def with_segmenter(
        *,
        segmenter_model: str | None,
        segmenter_labels: str | None,
        segmenter_threshold: float,
        segmenter_normalisation: str,
        segmenter_output: str,
        **others: Any,
    ) -> Any:
        config = _config(
            model=segmenter_model,
            labels=segmenter_labels,
            threshold=segmenter_threshold,
            normalisation=segmenter_normalisation,
            output=segmenter_output,
        )
        return command(segmenter=config if config.model else None, **others)

    return _all(
        with_segmenter,
        text(
            "--segmenter",
            "segmenter_model",
            metavar="FOLDER_ID_OR_ONNX",
            absent="none",
            help="Segmentation model for pictures that bring no mask.",
        ),
        text(
            "--segmenter-labels",
            metavar="NAME,...",
            absent="its own rule",
            help="Its classes that are the subject.",
        ),
        number(
            "--segmenter-threshold",
            metavar="NUMBER",
            kind=click.FloatRange(0, 1, max_open=True),
            default=0.5,
            help="Probability above which a pixel or segment counts.",
        ),
        choice(
            "--segmenter-normalisation",
            *("imagenet", "imagenet-mean", "half", "symmetric", "none"),
            help="What a .onnx file is fed.",
        ),
        choice("--segmenter-output", "probability", "stretched", help="How a .onnx file's answer is read."),
    )


def _config(**given: Any) -> SegmenterConfig:
    """The settings of these options. Raises ValueError that names the option, not the setting."""
    try:
        return SegmenterConfig(**given)
    except ValueError as error:
        words = str(error).replace("data.segmenter.model", "--segmenter")
        raise ValueError(words.replace("data.segmenter.", "--segmenter-")) from error


def _all(command: Command, *options: Callable[[Any], Any]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
