"""divrl-train report: one page about one or several runs."""

from __future__ import annotations

from pathlib import Path

import click

from .options import path


@click.command(short_help="One self-contained page about one or several runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@path("--output", metavar="FILE", absent="report.html in the last RUN", help="The page to write.")
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write a page of curves, contact sheets and the table.

    RUN is a demo folder, or run folders in the order of their stages.

    \b
    divrl-train report runs/demo
    divrl-train report runs/explore runs/suppress --output both.html
    """
    missing = [str(run) for run in runs if not run.is_dir()]
    if missing:
        raise FileNotFoundError(f"there is no run folder {', '.join(missing)}")

    from divrl_core.evaluation.report import write_report

    page = write_report(runs, output or runs[-1] / "report.html")
    click.echo(f"wrote {page}")
