"""Which pairs of pictures a person is shown, in which order, on which sides.

Each two models and each (reference, prompt, k) once. Whoever stops early has judged a balanced part: every two models
are shown in turn, each on either side as often (within one), on every reference once before they meet on one a second
time; of the references that are left to them the one comes that was shown least, whatever the models.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import combinations

from ..contest.evaluated import Asked, Evaluation
from ..contest.records import Place


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two models' pictures of one place. left, right: models. prompt: what both were asked."""

    left: str
    right: str
    place: Place
    prompt: str

    @property
    def key(self) -> tuple[frozenset[str], Place]:
        """What it is, whatever the sides."""
        return frozenset((self.left, self.right)), self.place


def make_pairs(evaluation: Evaluation, *, seed: int = 0, most: int | None = None) -> tuple[Pair, ...]:
    """All pairs of which both pictures and the reference are on disk, or the first `most` of them.

    Raises ValueError where there is none.
    """
    chance = random.Random(f"blind {seed}")
    models = [model.name for model in evaluation.models]
    queues = [_Queue(evaluation, both, chance) for both in combinations(models, 2)]
    shown: Counter[str] = Counter()
    pairs: list[Pair] = []
    while queues := [queue for queue in queues if queue.places]:
        turn = list(queues)
        chance.shuffle(turn)
        for queue in turn:
            pair = queue.take(shown)
            shown[pair.place.reference_id] += 1
            pairs.append(pair)
    if not pairs:
        raise ValueError(
            f"{evaluation.folder}: no two models have a picture of the same question yet, so there is nothing "
            f"to judge (models: {', '.join(models) or 'none'}); evaluate two models first"
        )
    return tuple(pairs if most is None else pairs[:most])


def _shared(evaluation: Evaluation, first: str, second: str) -> list[tuple[Asked, Place]]:
    places = []
    for question in evaluation.questions:
        for k in range(evaluation.pictures_each):
            place = Place(reference_id=question.reference_id, number=question.number, k=k)
            files = (
                evaluation.reference(question.reference_id),
                *(evaluation.picture(model, place) for model in (first, second)),
            )
            if all(file.is_file() for file in files):
                places.append((question, place))
    return places


class _Queue:
    """What is left of two models' pairs, mixed, and the sides on which they come."""

    def __init__(self, evaluation: Evaluation, both: tuple[str, str], chance: random.Random) -> None:
        self.both = both
        self.places = _shared(evaluation, *both)
        chance.shuffle(self.places)
        self._sides = iter(_balanced_sides(len(self.places), chance))
        self._met: Counter[str] = Counter()

    def take(self, shown: Counter[str]) -> Pair:
        """The next: on the reference on which the two met least so far, and that was shown least."""

        def order(number: int) -> tuple[int, int, int]:
            reference_id = self.places[number][1].reference_id
            return self._met[reference_id], shown[reference_id], number

        question, place = self.places.pop(min(range(len(self.places)), key=order))
        self._met[place.reference_id] += 1
        first, second = self.both
        left, right = (second, first) if next(self._sides) else (first, second)
        return Pair(left=left, right=right, place=place, prompt=question.prompt)


def _balanced_sides(count: int, chance: random.Random) -> list[bool]:
    """Of every two in turn one is turned around, which of them by chance."""
    sides: list[bool] = []
    while len(sides) < count:
        first = chance.random() < 0.5
        sides += [first, not first]
    return sides[:count]
