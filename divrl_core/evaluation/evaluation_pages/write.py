"""Everything that is told of an evaluation, written into its folder.

tables/      CSV, Markdown, LaTeX                      table_files.py
figures/     planes, progress as SVG and PNG; self-similarity maps
sheets/      contact sheets, the greatest disagreement first
report.html  all of it on one page
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ...config import BackboneConfig
from ...models.features.base import Backbone, load_backbone
from ...training.files import write_atomic_bytes, write_atomic_text
from ..blind.agreement import agreement_of
from ..blind.answers import ended_judgements
from ..contest.evaluated import Evaluation
from ..metrics.base import Metric
from ..standings.disagreement import by_disagreement, chosen_metric
from ..standings.standings import Standings
from .cards import cards_of
from .contact import contact_sheets
from .page import Parts, evaluation_page
from .palette import standalone
from .planes import Plane, planes
from .progress import Progress, progress_of
from .structure import StructureSheet, structure_sheets
from .table_files import write_tables
from .tables import file_name

TABLES, FIGURES, SHEETS, PAGE = "tables", "figures", "sheets", "report.html"


def write_report(
    evaluation: Evaluation,
    *,
    sort_by: str | None = None,
    runs: Mapping[str, Path] | None = None,
    backbone: Backbone | BackboneConfig | None = None,
    structure_count: int = 3,
    seed: int = 0,
) -> tuple[Path, ...]:
    """Write it all; the files, the page first.

    sort_by: the metric by whose disagreement pictures are sorted, by name; None: one of identity, else the first.
    runs: the run folder behind a model's LoRA, by the model's name (`progress.run_behind`).
    backbone: whose features the self-similarity maps show; None: the packaged lite0. structure_count: how many pictures
    have such maps; 0 loads no backbone. seed: of the bootstrap.

    Raises ValueError for a metric or a model that is none, a picture or a run that cannot be read; FileNotFoundError.
    """
    folder = evaluation.folder
    _check_runs(evaluation, runs or {})
    metric = chosen_metric(evaluation, sort_by)
    standings = Standings(evaluation, seed)
    progress = progress_of(runs or {})
    drawn = planes(standings)
    maps = _structure(evaluation, metric, backbone, structure_count)
    page = evaluation_page(
        standings,
        Parts(
            planes=drawn,
            progress=progress,
            structure=maps,
            cards=None if metric is None else cards_of(evaluation, metric, folder / PAGE),
            agreement=agreement_of(evaluation, ended_judgements(folder), seed=seed),
        ),
    )
    sheets = [] if metric is None else contact_sheets(evaluation, metric)
    return (
        write_atomic_text(folder / PAGE, page),
        *write_tables(standings, folder / TABLES),
        *_write_figures(folder / FIGURES, drawn, progress, maps),
        *(
            write_atomic_bytes(folder / SHEETS / f"{number}.png", _png(sheet))
            for number, sheet in enumerate(sheets, start=1)
        ),
    )


def _check_runs(evaluation: Evaluation, runs: Mapping[str, Path]) -> None:
    known = [model.name for model in evaluation.models]
    for name in runs:
        if name not in known:
            raise ValueError(
                f"runs: expected the names of models ({', '.join(known)}), got {name}; name the model the run made"
            )


def _structure(
    evaluation: Evaluation, metric: Metric | None, backbone: Backbone | BackboneConfig | None, count: int
) -> list[StructureSheet]:
    """Of the pictures on which the models differ most, each of another reference."""
    if metric is None or count <= 0:
        return []
    chosen, seen = [], set()
    for one in by_disagreement(evaluation, metric):
        files = [evaluation.picture(model.name, one.place) for model in evaluation.models]
        if one.place.reference_id not in seen and all(file.is_file() for file in files):
            seen.add(one.place.reference_id)
            chosen.append(one)
    if not chosen:
        return []
    pool = 1
    if backbone is None or isinstance(backbone, BackboneConfig):
        config = backbone or BackboneConfig()
        backbone, pool = load_backbone(config), config.nssm_pool or 1
    return structure_sheets(evaluation, chosen[:count], backbone, pool=pool)


def _write_figures(
    folder: Path, drawn: Sequence[Plane], progress: Sequence[Progress], maps: Sequence[StructureSheet]
) -> list[Path]:
    files = []
    for plane in drawn:
        files.append(write_atomic_text(folder / f"plane-{plane.name}.svg", standalone(plane.svg)))
        files.append(write_atomic_bytes(folder / f"plane-{plane.name}.png", plane.png))
    for run in progress:
        for chart in run.charts:
            name = f"progress-{file_name(run.model)}-{chart['metric']}"
            files.append(write_atomic_text(folder / f"{name}.svg", standalone(str(chart["svg"]))))
            files.append(write_atomic_bytes(folder / f"{name}.png", chart["png"]))
    for number, one in enumerate(maps, start=1):
        files.append(write_atomic_bytes(folder / f"structure-{number}.png", _png(one.sheet)))
    return files


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
