"""What a benchmark is: references, what each is asked to do, and other pictures of the same subjects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...training.references import PromptPair, ReferenceSet


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt about one reference.

    number: its place among the reference's prompts, from 0. subject: what prompts call the subject ("dog"), or "".
    collection: the group of references that it belongs to, or "". is_style: its reference is a style and shows no
    subject (DreamBench++'s category "style"), so that columns about the subject leave it out (METHOD.md, section 4).
    """

    pair: PromptPair
    number: int
    subject: str = ""
    collection: str = ""
    is_style: bool = False

    @property
    def reference_id(self) -> str:
        """The reference it is about."""
        return self.pair.reference_id


@dataclass(frozen=True, kw_only=True)
class View:
    """Another picture of a subject. `where` is for messages; `load` gives it in RGB."""

    where: str
    load: Callable[[], Image.Image]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Every question, in a stable order: all of one reference follow each other.

    source: the name and origin of the data, printed with every table. kind: of the layouts in `opening.py`.
    views: further pictures of a subject by its reference's id, where the data have any.
    """

    name: str
    kind: str
    source: str
    references: ReferenceSet
    questions: tuple[Question, ...]
    views: Mapping[str, Sequence[View]] = field(default_factory=dict)

    @property
    def reference_ids(self) -> tuple[str, ...]:
        """The references that are asked about, in the order of their first question."""
        return tuple(dict.fromkeys(question.reference_id for question in self.questions))


@dataclass(frozen=True, kw_only=True, order=True)
class PictureName:
    """One picture of a model: the k-th for a question. The same name is the same noise, whatever the model."""

    reference_id: str
    number: int
    k: int

    @property
    def file(self) -> Path:
        """Its place in a model's folder: REFERENCE/NUMBER_K.png."""
        return Path(self.reference_id) / f"{self.number}_{self.k}.png"


def names_of(questions: Sequence[Question], pictures_each: int) -> tuple[PictureName, ...]:
    """The names of `pictures_each` pictures of every question, in the order of the questions."""
    return tuple(
        PictureName(reference_id=question.reference_id, number=question.number, k=k)
        for question in questions
        for k in range(pictures_each)
    )
