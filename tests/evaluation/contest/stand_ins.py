"""A real benchmark of toy references, real scorers without a network, and a contest of them on the tiny pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from divrl_core.evaluation.benchmarks.base import Benchmark, PictureName, Question, names_of
from divrl_core.evaluation.contest.entries import parse_entries
from divrl_core.evaluation.contest.plan import Contest, checked_contest
from divrl_core.evaluation.contest.run import Hooks, evaluate_models
from divrl_core.evaluation.contest.settings import ContestSettings
from divrl_core.evaluation.contest.sources import ScorerSource
from divrl_core.evaluation.metrics.base import Metric, Shot, Subject, Values
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, lora_state
from divrl_core.models.lora_export import export_lora
from divrl_core.selection.judge import Judge
from divrl_core.training.pictures import decode_picture, picture_tensor
from divrl_core.training.processes import Processes
from divrl_core.training.references import ReferenceSet
from divrl_core.training.start import join_processes
from tests.training.tiny_run import ToyReferences

PROMPTS = ("a toy fox on a blue floor", "a toy robot with red arms")


def benchmark_of(references: ReferenceSet, name: str = "toys") -> Benchmark:
    numbered = (
        Question(pair=pair, number=int(pair.group_id.rpartition("#")[2])) for pair in references.pairs
    )
    return Benchmark(
        name=name,
        kind="stand-in",
        source=f"{name}, made up",
        references=references,
        questions=tuple(numbered),
    )


def toys(*names: str, prompts: Sequence[str] = PROMPTS) -> Benchmark:
    return benchmark_of(ToyReferences(names or ("ant", "bee"), tuple(prompts)))


BRIGHTNESS = Metric(
    name="brightness", label="Brightness", meaning="Mean of all pixels.", better="neither", family="quality"
)
SPREAD = Metric(
    name="spread",
    label="Spread",
    meaning="Deviation of brightness within a question.",
    better="higher",
    family="within the set",
    of_sets=True,
)


@dataclass
class Counted:
    """A scorer without a network that counts what it is asked for."""

    name: str = "light"
    source: str = "pixels"
    metrics: tuple[Metric, ...] = (BRIGHTNESS, SPREAD)
    prepared: list[str] = field(default_factory=list)
    scored: list[tuple[str, int, int]] = field(default_factory=list)
    masked: list[bool] = field(default_factory=list)

    def prepare(self, subject: Subject) -> object:
        self.prepared.append(subject.reference_id)
        return subject.reference_id

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        assert all(shot.question.reference_id == prepared for shot in shots)
        self.scored += [(shot.question.reference_id, shot.question.number, shot.k) for shot in shots]
        self.masked += [shot.mask is not None for shot in shots]
        light = [float(picture_tensor(shot.picture).mean()) for shot in shots]
        sets: dict[int, list[float]] = {}
        for shot, value in zip(shots, light, strict=True):
            sets.setdefault(shot.question.number, []).append(value)
        spread = [float(np.std(values)) for values in sets.values()]
        return {"brightness": torch.tensor(light), "spread": torch.tensor(spread)}

    def waiting(self) -> ScorerSource:
        return ScorerSource(name=self.name, asked=self.name, load=lambda device: self)


class Lite0Scorer:
    """VSM and nSSM by the packaged backbone: a scorer with a network."""

    name = "lite0"
    metrics = tuple(
        Metric(name=name, label=name, meaning=name, better="higher", family=family)
        for name, family in (("vsm", "identity"), ("nssm", "structure"))
    )

    def __init__(self) -> None:
        self.backbone = Lite0Backbone.load()
        self.source = self.backbone.source

    def prepare(self, subject: Subject) -> object:
        return Judge(self.backbone, subject.picture, subject.mask.numpy(), name=subject.reference_id)

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        assert isinstance(prepared, Judge)
        found = prepared.score(torch.stack([picture_tensor(shot.picture) for shot in shots])).scores
        return {"vsm": found.vsm, "nssm": found.nssm}


def lite0() -> ScorerSource:
    return ScorerSource(name="lite0", asked="lite0", load=lambda device: Lite0Scorer())


def finished_pictures(
    folder: Path, questions: Sequence[Question], pictures_each: int
) -> Mapping[PictureName, Path]:
    """Pictures named as an evaluation lays them out, each decoded once."""
    found = {name: folder / name.file for name in names_of(questions, pictures_each)}
    for name, path in found.items():
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {name.file.as_posix()}")
        try:
            decode_picture(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return found


def contest_of(
    pipeline: Path,
    *models: str,
    benchmark: Benchmark | None = None,
    scorers: Sequence[ScorerSource] = (),
    **settings: Any,
) -> Contest:
    given = {"base": str(pipeline), "pictures_each": 2, "steps": 2, "size_px": 32, **settings}
    return checked_contest(
        ContestSettings(**given),
        benchmark or toys(),
        parse_entries(models or ("base",)),
        scorers,
        finished=finished_pictures,
    )


def alone(output: Path) -> Processes:
    return join_processes(output, device="cpu")


def hold(contest: Contest, output: Path, **hooks: Callable[..., None]) -> None:
    evaluate_models(contest, output, alone(output), hooks=Hooks(**hooks))


def pictures_in(output: Path) -> dict[str, bytes]:
    """Every picture of every model, by its path below pictures/."""
    folder = output / "pictures"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def times_in(output: Path) -> dict[str, int]:
    """When each picture was written, in nanoseconds."""
    folder = output / "pictures"
    return {
        path.relative_to(folder).as_posix(): os.stat(path).st_mtime_ns
        for path in sorted(folder.rglob("*.png"))
    }


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def random_lora(
    pipeline: Path, path: Path, *, settings: Mapping[str, Any] | None = None, **more: Any
) -> Path:
    """A LoRA whose effect can be seen."""
    transformer = FluxAdapter.load(str(pipeline)).transformer
    add_lora(transformer, 2, 4.0, "attention", 0)
    generator = torch.Generator().manual_seed(1)
    state = {
        name: 0.5 * torch.randn(w.shape, generator=generator) for name, w in lora_state(transformer).items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    return export_lora(path, state, rank=2, alpha=4.0, settings=dict(settings or {}), metadata={}, **more)
