"""divrl-train inspect: what a model does inside while it makes a picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .dry_run import print_dry_run
from .options import device_of, flag, number, output_folder, seed_option
from .picture_options import check_subject, sampling_options, subject_options

if TYPE_CHECKING:
    from divrl_core.config import SegmenterConfig


class BlockList(click.ParamType[tuple[str, ...]]):
    """Names of a transformer's blocks separated by commas, `double.0,single.3`."""

    name = "blocks"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Raises click's BadParameter for anything but such a list."""
        if isinstance(value, tuple):
            return value
        found = tuple(part.strip() for part in str(value).split(","))
        for name in found:
            if not re.fullmatch(r"(double|single)\.[0-9]+", name):
                self.fail(f"needs names such as double.0,single.3, got {value!r}", param, ctx)
        if len(set(found)) != len(found):
            self.fail(f"names a block twice: {value!r}", param, ctx)
        return found


class PointList(click.ParamType[tuple[tuple[int, int], ...]]):
    """Points `X,Y` separated by spaces or semicolons, `64,40 80,100`, as pairs of whole pixels."""

    name = "points"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[int, int], ...]:
        """Raises click's BadParameter for anything but such a list."""
        if isinstance(value, tuple):
            return value
        words = [word for word in re.split(r"[;\s]+", str(value)) if word]
        pairs = [re.fullmatch(r"(-?[0-9]+),(-?[0-9]+)", word) for word in words]
        found = tuple((int(pair[1]), int(pair[2])) for pair in pairs if pair)
        if not words or len(found) != len(words):
            self.fail(f'needs points such as "64,40 80,100" (x,y in pixels), got {value!r}', param, ctx)
        if len(set(found)) != len(found):
            self.fail(f"names a point twice: {value!r}", param, ctx)
        return found


@click.group(short_help="Where a picture's points look in its reference: attention maps.")
def inspect() -> None:
    """What a model does inside while it makes a picture."""


@inspect.command(short_help="Heat maps of the attention from points of a picture to its reference.")
@subject_options
@click.option(
    "--points",
    metavar='"X,Y X,Y ..."',
    type=PointList(),
    show_default="five over the middle",
    help="Points of the picture that is made, in pixels, a column each; quote them.",
)
@click.option(
    "--blocks",
    metavar="NAME,...",
    type=BlockList(),
    show_default="first, middle and last",
    help="Blocks of the transformer, a row each: double.0 and on, then single.0 and on.",
)
@number(
    "--time",
    metavar="NUMBER",
    kind=click.FloatRange(0, 1),
    default=0.5,
    help="The step nearest to this time is read; 1 is noise, 0 the finished picture.",
)
@seed_option("Seed of the picture, the same as in sample.")
@sampling_options
@output_folder("runs/inspect", "Where attention.jpg, attention.json and the two pictures are written.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def attention(
    reference: Path,
    mask: Path | None,
    segmenter: SegmenterConfig | None,
    prompt: str,
    model: str | None,
    lora: Path | None,
    points: tuple[tuple[int, int], ...] | None,
    blocks: tuple[str, ...] | None,
    time: float,
    seed: int,
    steps: int,
    guidance: float | None,
    size_px: tuple[int, int] | None,
    layout: str | None,
    dtype: str,
    device: str,
    output: Path,
    dry_run: bool,
) -> None:
    """Make a picture, read at one step where points of it look in the reference, and draw that as heat maps.

    \b
    divrl-train inspect attention --reference fox.png --prompt "a toy fox on a blue floor" \\
        --points "64,40 80,100" --blocks double.0,single.3
    """
    if layout == "none":
        raise ValueError("--layout none leaves the reference out: there is no attention to it to look at")
    check_subject(reference, mask, prompt, lora)

    if dry_run:
        from divrl_core.evaluation.dry_runs import Request, attention_lines

        asked = Request(
            model=model,
            reference=reference,
            mask=mask,
            segmenter=segmenter,
            prompt=prompt,
            lora=lora,
            seeds=(seed,),
            steps=steps,
            size_px=size_px,
            layout=layout,
            dtype=dtype,
            device=device_of(device),
        )
        lines = attention_lines(asked, blocks=blocks or (), points=points or ())
        print_dry_run(lines, output=f"attention.jpg, attention.json and two pictures in {output}")
        return

    from divrl_core.evaluation.attention_maps import attention_sheet

    sheet = attention_sheet(
        model=model,
        reference=reference,
        mask=mask,
        segmenter=segmenter,
        prompt=prompt,
        lora=lora,
        points=points or (),
        blocks=blocks or (),
        time=time,
        seed=seed,
        steps=steps,
        guidance_scale=guidance,
        size_px=size_px,
        layout=layout,
        dtype=dtype,
        device=device_of(device),
        output=output,
    )
    click.echo(f"wrote {sheet}")
