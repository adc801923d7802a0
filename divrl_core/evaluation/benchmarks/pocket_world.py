"""The embedded pocket world as a benchmark: figures that no training set shows, their masks and truths exact."""

from __future__ import annotations

from PIL import Image

from ...models.model_names import POCKET
from ...pocket.references import FIRST_INDEX, PocketReferences
from ...pocket.render import render
from ...pocket.world import views_of
from ...training.references import SomePairs, first_prompts
from .base import Benchmark, Question, View
from .limits import Limits

KIND = "pocket"
FIGURES = 16
OTHER_STANCE = 2  # of `views_of`: independent of the reference's stance


def open_pocket_world(spec: str, limits: Limits, *, seed: int = 0) -> Benchmark:
    """`pocket`, or `pocket:24` for 24 figures; `pocket:8` holds the first 8 of these.

    seed: which figures; 0 are those of a run's validation. Each has four prompts and one further view in another
    stance. `training.references.known_world` finds the truth behind its references.

    Raises ValueError for any other spec.
    """
    count = min(_figures(spec), limits.references or _figures(spec))
    whole = PocketReferences(split="held_out", count=count, seed=seed)
    some = whole if limits.prompts is None else first_prompts(whole, limits.prompts)
    numbers = {whole.reference_id(number): number for number in range(count)}
    return Benchmark(
        name="pocket world",
        kind=KIND,
        source=f"the embedded pocket world, held-out figures of seed {seed}: {count} references, "
        f"{len(some.pairs)} prompts",
        references=some,
        questions=_questions(whole, some, numbers),
        views={name: (_other_stance(name, number, seed),) for name, number in numbers.items()},
    )


def _figures(spec: str) -> int:
    name, separator, count = spec.partition(":")
    if name != POCKET or (separator and not (count.isascii() and count.isdigit() and int(count) > 0)):
        raise ValueError(f"the pocket world is {POCKET}, or {POCKET}:24 for 24 figures, got {spec!r}")
    return int(count) if separator else FIGURES


def _questions(
    whole: PocketReferences, some: PocketReferences | SomePairs, numbers: dict[str, int]
) -> tuple[Question, ...]:
    plans = {name: whole.view(number).identity.plan for name, number in numbers.items()}
    return tuple(
        Question(
            pair=pair,
            number=int(pair.group_id.rpartition("#")[2]),
            subject=f"toy {plans[pair.reference_id]}",
            collection=plans[pair.reference_id],
        )
        for pair in some.pairs
    )


def _other_stance(name: str, number: int, seed: int) -> View:
    def load() -> Image.Image:
        view = views_of(FIRST_INDEX + number, seed=seed, held_out=True)[OTHER_STANCE]
        return Image.fromarray(render(view.identity, view.structure, view.background).image)

    return View(where=f"pocket world: {name} in another stance", load=load)
