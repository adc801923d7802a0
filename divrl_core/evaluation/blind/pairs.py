"""Which pairs of pictures a person is shown, in which order, on which sides.

Each two models and each (reference, prompt, k) once. Whoever stops early has judged a balanced part: every two models
are shown in turn, each on either side as often (within one), and no reference a second time before all were shown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, zip_longest

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
    queues = []
    for first, second in combinations(models, 2):
        places = _in_rounds(_shared(evaluation, first, second), chance)
        sides = _balanced_sides(len(places), chance)
        queues.append(
            [
                Pair(
                    left=second if is_turned else first,
                    right=first if is_turned else second,
                    place=place,
                    prompt=question.prompt,
                )
                for (question, place), is_turned in zip(places, sides, strict=True)
            ]
        )
    pairs: list[Pair] = []
    for turn in zip_longest(*queues):
        shown = [pair for pair in turn if pair is not None]
        chance.shuffle(shown)
        pairs += shown
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


def _in_rounds(places: Sequence[tuple[Asked, Place]], chance: random.Random) -> list[tuple[Asked, Place]]:
    """In random order, but every reference once, then every one a second time, and so on."""
    mixed = list(places)
    chance.shuffle(mixed)
    seen: Counter[str] = Counter()
    rounds = []
    for one in mixed:
        rounds.append(seen[one[1].reference_id])
        seen[one[1].reference_id] += 1
    order = sorted(range(len(mixed)), key=rounds.__getitem__)
    return [mixed[place] for place in order]


def _balanced_sides(count: int, chance: random.Random) -> list[bool]:
    """Of every two in turn one is turned around, which of them by chance."""
    sides: list[bool] = []
    while len(sides) < count:
        first = chance.random() < 0.5
        sides += [first, not first]
    return sides[:count]
