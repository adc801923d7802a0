"""What a metric is to an evaluation: a name, which way is better, and values of pictures.

A *scorer* is one loaded network (or none) with the metrics that it gives, so that a picture goes through each network
once for all of them. An evaluation takes one scorer after the other, loads it, and shows it reference by reference
the pictures of all models: a reference is prepared once a scorer, however many pictures there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from PIL import Image
from torch import Tensor

from ..benchmarks.base import Question, View

Direction = Literal["higher", "lower", "neither"]
Family = Literal["prompt", "identity", "structure", "within the set", "quality", "truth"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One column of the table.

    name: in files, lower case with underscores. label: in tables ("CLIP-T"). meaning: one sentence. better: which way.
    of_sets: its values are of all pictures of one question together, not of single ones. counts_style: whether
    questions whose reference is a style, and shows no subject, count.
    """

    name: str
    label: str
    meaning: str
    better: Direction
    family: Family
    of_sets: bool = False
    counts_style: bool = True


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A reference as scorers are given it: picture and mask as they are, and other pictures of the same subject.

    mask: bool (H, W) of the picture's size, True on the subject. views: empty where the data have none.
    """

    reference_id: str
    picture: Image.Image
    mask: Tensor
    views: Sequence[View] = ()


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A model's picture as scorers are given it: RGB as it is, the question it answers, its number there.

    mask: bool (H, W) of its size, True on the subject, from a segmentation model; None where there is none.
    """

    picture: Image.Image
    question: Question
    k: int
    mask: Tensor | None = None


Values = Mapping[str, Tensor]
"""Metric name -> (B,) float; NaN = undefined. A metric that cannot be had of these pictures at all is left out."""


class Scorer(Protocol):
    """One network with the metrics it gives, loaded."""

    @property
    def name(self) -> str:
        """Its name in files: "clip"."""

    @property
    def source(self) -> str:
        """Model and origin, printed with every table."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What it gives."""

    def prepare(self, subject: Subject) -> object:
        """What it needs of a reference, made once. Raises ValueError naming the reference where it cannot be had."""

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Values of pictures of one reference, whatever their questions, shapes and number.

        Of metrics `of_sets` one value each question, in the order of the questions' first pictures.
        """
