"""An evaluation as its folder tells it: what was asked, who answered, what was measured. Tables and pages read this.

OUTPUT/evaluation.json              benchmark, questions, models, metrics with their sources
OUTPUT/pictures/MODEL/REFERENCE/NUMBER_K.png
OUTPUT/references/REFERENCE.png     each reference as models were shown it, its mask as REFERENCE.mask.png
OUTPUT/scores/MODEL.jsonl           see records.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...training.files import write_atomic_json
from ..metrics.base import Metric
from .records import SCORES, Place, merged, read_all_scores

FILE, PICTURES, REFERENCES = "evaluation.json", "pictures", "references"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question as it is kept: see `benchmarks.base.Question`."""

    reference_id: str
    number: int
    prompt: str
    subject: str
    collection: str
    is_style: bool


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model of the contest. name: in tables and files. about: what it is, in words, with its file and strength.

    evaluations: forwards of the transformer for one finished picture; None for pictures of other systems.
    trained_on: what a reward of its training was made of, by the names of metrics; a table marks these.
    """

    name: str
    about: str
    evaluations: float | None = None
    trained_on: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One metric with the name and origin of the model behind it."""

    metric: Metric
    source: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All of it. values: by model's name, then by place; of a metric that a place lacks nothing is there.

    cutoff: VSM above which a picture is consistent. seed, steps: of the noise and the sampling.
    """

    folder: Path
    benchmark: str
    source: str
    seed: int
    steps: int
    pictures_each: int
    cutoff: float
    masks: str
    questions: tuple[Asked, ...]
    models: tuple[Model, ...]
    measured: tuple[Measured, ...]
    values: Mapping[str, Mapping[Place, Mapping[str, float]]]

    def picture(self, model: str, place: Place) -> Path:
        """The file of a model's picture."""
        return self.folder / PICTURES / model / place.reference_id / f"{place.number}_{place.k}.png"

    def reference(self, reference_id: str) -> Path:
        """The file of a reference."""
        return self.folder / REFERENCES / f"{reference_id}.png"


def write_evaluation(evaluation: Evaluation) -> Path:
    """Write OUTPUT/evaluation.json; scores are written as they are made (records.py)."""
    content = {
        key: value
        for key, value in vars(evaluation).items()
        if key not in ("folder", "questions", "models", "measured", "values")
    }
    content |= {
        "questions": [asdict(question) for question in evaluation.questions],
        "models": [asdict(model) for model in evaluation.models],
        "metrics": [{**asdict(one.metric), "source": one.source} for one in evaluation.measured],
    }
    return write_atomic_json(evaluation.folder / FILE, content)


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation's folder, as far as it has come.

    Raises FileNotFoundError where it is none, ValueError with the file for one that cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no evaluation: it has no {FILE}; give what divrl-train evaluate wrote to"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        models = tuple(
            Model(**{**model, "trained_on": tuple(model["trained_on"])}) for model in content["models"]
        )
        told = Evaluation(
            folder=folder,
            questions=tuple(Asked(**question) for question in content["questions"]),
            models=models,
            measured=tuple(_measured(metric) for metric in content["metrics"]),
            values={},
            **{name: content[name] for name in _PLAIN},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: is no evaluation of this version ({error})") from error
    values = {model.name: merged(read_all_scores(scores_file(folder, model.name))) for model in models}
    return replace(told, values=values)


def scores_file(folder: Path, model: str) -> Path:
    """The scores of one model."""
    return folder / SCORES / f"{model}.jsonl"


_PLAIN: Sequence[str] = ("benchmark", "source", "seed", "steps", "pictures_each", "cutoff", "masks")


def _measured(found: Mapping[str, Any]) -> Measured:
    kept = dict(found)
    return Measured(source=kept.pop("source"), metric=Metric(**kept))
