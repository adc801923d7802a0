"""divrl-train report: one page about one or several runs."""

from __future__ import annotations

from pathlib import Path

import click

from .dry_run import print_dry_run
from .options import flag, path


@click.command(short_help="One self-contained page about one or several runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@path("--output", metavar="FILE", absent="report.html in the last RUN", help="The page to write.")
@flag("--dry-run", "Check every input and tell what would be done; load and write nothing.")
def report(runs: tuple[Path, ...], output: Path | None, dry_run: bool) -> None:
    """Write a page of curves, contact sheets and the table.

    RUN is a demo folder, or run folders in the order of their stages.

    \b
    divrl-train report runs/demo
    divrl-train report runs/explore runs/suppress --output both.html
    """
    missing = [str(run) for run in runs if not run.is_dir()]
    if missing:
        raise FileNotFoundError(f"there is no run folder {', '.join(missing)}")

    target = output or runs[-1] / "report.html"
    if dry_run:
        from divrl_core.evaluation.report import report_page

        size = len(report_page(runs).encode()) / 1e6
        print_dry_run([f"a page of {size:.1f} MB about {', '.join(map(str, runs))}"], output=str(target))
        return

    from divrl_core.evaluation.report import write_report

    page = write_report(runs, target)
    click.echo(f"wrote {page}")
