"""divrl-train score: pictures against their references."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from divrl_core.config import BackboneConfig
from divrl_core.config_reward import BackboneName

from .dry_run import print_dry_run
from .options import backbone_options, flag, output_folder, path
from .segmenter_options import segmenter_options

if TYPE_CHECKING:
    from divrl_core.config import SegmenterConfig


@click.command(short_help="Pictures against their references: a table, a CSV file, a sheet.")
@path("--images", metavar="PATH", help="Folder of pictures to score, or one picture.")
@path(
    "--reference",
    "--references",
    "references",
    metavar="PATH",
    help="One picture for all, or a folder in which names match the pictures'.",
)
@path(
    "--mask",
    metavar="PATH",
    absent="alpha channel, else --segmenter, else the whole picture",
    help="The references' object masks: one picture, or a folder.",
)
@backbone_options()
@segmenter_options
@output_folder("runs/score", "Where scores.csv and sheet.jpg are written.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def score(
    images: Path,
    references: Path,
    mask: Path | None,
    backbone: BackboneName,
    backbone_path: str | None,
    segmenter: SegmenterConfig | None,
    output: Path,
    dry_run: bool,
) -> None:
    """Score pictures by nSSM and VSM against the subject they should show.

    nSSM, 0 to 2: higher is more different in structure. VSM, 0 to 1: higher is more faithful in identity.

    \b
    divrl-train score --images runs/sample --reference fox.png --mask fox_mask.png
    """
    for option, file in (("--images", images), ("--reference", references), ("--mask", mask)):
        if file is not None and not file.exists():
            raise FileNotFoundError(f"{option}: there is no file or folder {file}")
    measure = BackboneConfig(name=backbone, path=backbone_path)

    if dry_run:
        from divrl_core.evaluation.dry_runs import score_lines

        print_dry_run(
            score_lines(images, references, mask, measure, segmenter),
            output=f"{output}/scores.csv, {output}/sheet.jpg",
        )
        return

    from divrl_core.evaluation.score import score_folder

    scored = score_folder(images, references, mask=mask, segmenter=segmenter, output=output, backbone=measure)
    click.echo(str(scored))
