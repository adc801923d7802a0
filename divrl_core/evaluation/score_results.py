"""The scores of a folder as a table, a CSV file and a contact sheet.

An undefined score is shown as "undefined" and left out of the means, never counted as 0.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

UNDEFINED = "undefined"


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """One picture's measures; NaN = undefined. kept_count: matches behind VSM."""

    picture: str
    reference: str
    nssm: float
    vsm: float
    kept_count: int


@dataclass(frozen=True, kw_only=True)
class ScoredFolder:
    """The scores of a folder; as text, a table with a line a reference and one for all of them.

    backbone, mask_source, consistency_cutoff: what they were measured with. files: what was written.
    """

    scores: tuple[PictureScore, ...]
    backbone: str
    mask_source: str
    consistency_cutoff: float
    files: tuple[Path, ...]

    def __str__(self) -> str:
        """Means with standard errors, n, and what measured them."""
        groups: dict[str, list[PictureScore]] = {}
        for score in self.scores:
            groups.setdefault(score.reference, []).append(score)
        rows = [self._row(name, scores) for name, scores in groups.items()]
        if len(groups) > 1:
            rows.append(self._row("all", self.scores))
        notes = [
            f"measured with {self.backbone}; masks: {self.mask_source}",
            f"consistent: share of defined VSM above {self.consistency_cutoff:g}; ±: standard error of the mean",
            f"wrote {', '.join(str(file) for file in self.files)}",
        ]
        heading = ["reference", "n", "nSSM", "VSM", "undefined", "consistent"]
        return "\n".join([*_aligned([heading, *rows]), *notes])

    def csv(self) -> str:
        """A row a picture: measures with 6 decimals, or "undefined"."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["picture", "reference", "nssm", "vsm", "kept_count", "backbone"])
        for score in self.scores:
            measures = [
                UNDEFINED if math.isnan(value) else f"{value:.6f}" for value in (score.nssm, score.vsm)
            ]
            writer.writerow([score.picture, score.reference, *measures, score.kept_count, self.backbone])
        return text.getvalue()

    def _row(self, name: str, scores: Sequence[PictureScore]) -> list[str]:
        nssm = [score.nssm for score in scores if not math.isnan(score.nssm)]
        vsm = [score.vsm for score in scores if not math.isnan(score.vsm)]
        undefined = sum(math.isnan(score.nssm) or math.isnan(score.vsm) for score in scores)
        is_consistent = [value > self.consistency_cutoff for value in vsm]
        consistent = f"{statistics.fmean(is_consistent):.2f}" if vsm else UNDEFINED
        return [name, str(len(scores)), _mean(nssm), _mean(vsm), str(undefined), consistent]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return UNDEFINED
    mean = f"{statistics.fmean(values):.3f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
