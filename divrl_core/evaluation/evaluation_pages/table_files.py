"""A folder of tables: CSV for other programs, a line a number; Markdown and LaTeX for people.

main, collections, family-*, differences    .csv .md .tex
pictures.csv                                every picture with all its values
all.tex                                     a document with every table
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...training.files import write_atomic_text
from ..contest.records import Place
from ..standings.standings import Standings
from .table_texts import latex, latex_document, markdown
from .tables import Table, collections_table, differences_table, family_tables, main_table


def write_tables(standings: Standings, folder: Path) -> tuple[Path, ...]:
    """Write them all; the files, the main table's first."""
    found = [
        main_table(standings),
        collections_table(standings),
        *family_tables(standings),
        *(differences_table(standings, model) for model in standings.models),
    ]
    tables = [table for table in found if table is not None]
    files = []
    for table in tables:
        files += [
            write_atomic_text(folder / f"{table.name}.csv", table_csv(table)),
            write_atomic_text(folder / f"{table.name}.md", markdown(table)),
            write_atomic_text(folder / f"{table.name}.tex", latex(table)),
        ]
    differences = differences_table(standings)
    if differences is not None:
        files.append(write_atomic_text(folder / "differences.csv", table_csv(differences)))
    files.append(write_atomic_text(folder / "pictures.csv", pictures_csv(standings)))
    files.append(write_atomic_text(folder / "all.tex", latex_document([table.name for table in tables])))
    return tuple(files)


def table_csv(table: Table) -> str:
    """A line a cell: what it is of, the number with its interval, what it rests on, its mark, its networks."""
    return _csv(
        {
            "model": header,
            "metric": row.column.name,
            "label": row.column.label,
            "family": row.column.family,
            "collection": row.part,
            "better": row.column.better,
            "value": _number(cell.estimate.value),
            "low": _number(cell.estimate.low),
            "high": _number(cell.estimate.high),
            "n": cell.estimate.n,
            "questions": cell.estimate.questions,
            "references": cell.estimate.references,
            "undefined": cell.estimate.undefined,
            "missing": cell.estimate.missing,
            "mark": cell.mark or ("beyond noise" if cell.is_moved else ""),
            "rewarded": "yes" if cell.is_rewarded else "",
            "source": row.column.source,
        }
        for row in table.rows
        for header, cell in zip(table.header, row.cells, strict=True)
    )


def pictures_csv(standings: Standings) -> str:
    """A line a picture, and with no k a line a question for what is of all its pictures; undefined values are empty."""
    evaluation = standings.evaluation
    metrics = [one.metric for one in evaluation.measured]
    lines = []
    for model in evaluation.models:
        found = evaluation.values.get(model.name, {})
        for question in evaluation.questions:
            for k in (*range(evaluation.pictures_each), None):
                place = Place(reference_id=question.reference_id, number=question.number, k=k)
                values = found.get(place, {})
                shown = [metric for metric in metrics if metric.of_sets == (k is None)]
                if not shown:
                    continue
                file = (
                    "" if k is None else evaluation.picture(model.name, place).relative_to(evaluation.folder)
                )
                lines.append(
                    {
                        "model": model.name,
                        "reference": question.reference_id,
                        "number": question.number,
                        "k": "" if k is None else k,
                        "collection": question.collection,
                        "style": "yes" if question.is_style else "",
                        "prompt": question.prompt,
                        "file": str(file),
                        **{metric.name: "" for metric in metrics},
                        **{metric.name: _number(values.get(metric.name, math.nan)) for metric in shown},
                    }
                )
    return _csv(lines)


def _csv(lines: Iterable[Mapping[str, Any]]) -> str:
    rows: Sequence[Mapping[str, Any]] = list(lines)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]) if rows else ["model"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
