"""The scores of a folder as a table, a CSV file and a contact sheet.

An undefined score is shown as "undefined" and left out of the means, never counted as 0.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .consistency import is_consistent

UNDEFINED = "undefined"


@dataclass(frozen=True, kw_only=True)
class PictureScore:
    """One picture's measures; NaN = undefined. kept_count: matches behind VSM. more: further measures by name."""

    picture: str
    reference: str
    nssm: float
    vsm: float
    kept_count: int
    more: Mapping[str, float] = field(default_factory=dict)


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
            "extent: cells that match the subject, against the reference's own; half where half of it is missing",
            f"wrote {', '.join(str(file) for file in self.files)}",
        ]
        heading = ["reference", "n", "nSSM", "VSM", "extent", "undefined", "consistent"]
        return "\n".join([*_aligned([heading, *rows]), *notes])

    def csv(self) -> str:
        """A row a picture: measures with 6 decimals, or "undefined"."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = list(dict.fromkeys(name for score in self.scores for name in score.more))
        writer.writerow(["picture", "reference", "nssm", "vsm", "kept_count", *names, "backbone"])
        for score in self.scores:
            nssm, vsm, *more = (
                UNDEFINED if math.isnan(value) else f"{value:.6f}"
                for value in (score.nssm, score.vsm, *(score.more.get(name, math.nan) for name in names))
            )
            row = [score.picture, score.reference, nssm, vsm, score.kept_count, *more, self.backbone]
            writer.writerow(row)
        return text.getvalue()

    def _row(self, name: str, scores: Sequence[PictureScore]) -> list[str]:
        nssm = [score.nssm for score in scores if not math.isnan(score.nssm)]
        vsm = [score.vsm for score in scores if not math.isnan(score.vsm)]
        undefined = sum(math.isnan(score.nssm) or math.isnan(score.vsm) for score in scores)
        passed = [is_consistent(value, self.consistency_cutoff) for value in vsm]
        consistent = f"{statistics.fmean(passed):.2f}" if vsm else UNDEFINED
        extent = [score.more.get("extent", math.nan) for score in scores]
        known = _mean([value for value in extent if not math.isnan(value)])
        return [name, str(len(scores)), _mean(nssm), _mean(vsm), known, str(undefined), consistent]


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
