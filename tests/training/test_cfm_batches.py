"""Which pairs make which micro-batch: laws, and one plan by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.models.panels import panel_size
from divrl_core.training.cfm_batches import BatchPlan, SizedPair, sized_pairs
from divrl_core.training.latent_cache import PanelPicture
from divrl_core.training.pair_set import PictureFacts, TrainingPair

SIZES = ((32, 32), (16, 64), (64, 16))


def sized(counts: dict[tuple[int, int], int]) -> list[SizedPair]:
    """Pairs named toy-0, toy-1 and so on, that many of each panel size."""
    sizes = [size for size, count in counts.items() for _ in range(count)]
    return [
        SizedPair(TrainingPair(f"toy-{place}", f"{place}.target", f"{place}.reference", ("x",)), *size)
        for place, size in enumerate(sizes)
    ]


def epoch(plan: BatchPlan, number: int) -> list[tuple[SizedPair, ...]]:
    return [plan.micro_batch(number * plan.epoch_length + place) for place in range(plan.epoch_length)]


COUNTS = st.dictionaries(st.sampled_from(SIZES), st.integers(1, 13), min_size=1)


@settings(deadline=None)
@given(COUNTS, st.integers(1, 6), st.integers(0, 4), st.integers(0, 3))
def test_every_pair_comes_exactly_once_an_epoch_among_its_own_size(
    counts: dict[tuple[int, int], int], batch_size: int, seed: int, number: int
) -> None:
    plan = BatchPlan(sized(counts), batch_size, seed)
    assert plan.sizes == dict(sorted(counts.items()))
    assert plan.epoch_length == sum(-(-count // batch_size) for count in counts.values())
    batches = epoch(plan, number)
    for batch in batches:
        assert 1 <= len(batch) <= batch_size and len({(item.height, item.width) for item in batch}) == 1
    assert Counter(item for batch in batches for item in batch) == Counter(sized(counts))
    smaller = Counter((batch[0].height, batch[0].width) for batch in batches if len(batch) < batch_size)
    assert smaller == {size: 1 for size, count in counts.items() if count % batch_size}


@given(COUNTS, st.integers(1, 6), st.integers(0, 9), st.randoms(use_true_random=False))
def test_a_micro_batch_depends_on_seed_and_number_alone_and_not_on_how_pairs_are_listed(
    counts: dict[tuple[int, int], int], batch_size: int, number: int, random: object
) -> None:
    pairs = sized(counts)
    plan = BatchPlan(pairs, batch_size, seed=3)
    asked = plan.micro_batch(number)
    for other in (0, 17, number + 1, 2):  # what was asked before does not count
        plan.micro_batch(other)
    random.shuffle(pairs)  # type: ignore[attr-defined]
    assert plan.micro_batch(number) == asked == BatchPlan(pairs, batch_size, seed=3).micro_batch(number)


def test_other_seeds_and_other_epochs_have_another_order() -> None:
    pairs = sized({(32, 32): 12, (16, 64): 12})
    first = epoch(BatchPlan(pairs, 4, 0), 0)
    for other in (epoch(BatchPlan(pairs, 4, 1), 0), epoch(BatchPlan(pairs, 4, 0), 1)):
        assert other != first and {frozenset(batch) for batch in other} != {
            frozenset(batch) for batch in first
        }
        assert [batch[0].height for batch in other] != [batch[0].height for batch in first]  # sizes mix anew
    assert {frozenset(batch) for batch in first} != {
        frozenset(pairs[start : start + 4]) for start in range(0, 24, 4)
    }


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    # By the hash alone epoch 0 runs 1 3 2 4 0 and epoch 1 runs 1 4 3 0 2; then the micro-batches are shuffled.
    plan = BatchPlan(sized({(32, 32): 5}), 2, seed=0)
    names = [[int(item.pair.pair_id[4:]) for item in plan.micro_batch(number)] for number in range(6)]
    assert names == [[0], [2, 4], [1, 3], [2], [1, 4], [3, 0]]


def test_pairs_added_later_do_not_change_the_order_of_the_others() -> None:
    def order(count: int) -> list[str]:
        plan = BatchPlan(sized({(32, 32): count}), count, seed=2)
        return [item.pair.pair_id for item in plan.micro_batch(0)]

    few = order(6)
    assert [name for name in order(9) if name in few] == few


@dataclass(frozen=True)
class Shapes:
    """Pictures of which only the sizes are known."""

    shapes: dict[str, tuple[int, int]]
    pairs: tuple[TrainingPair, ...]

    def facts(self, picture_id: str) -> PictureFacts:
        return PictureFacts(picture_id, *self.shapes[picture_id])


def test_panels_take_the_targets_aspect_or_are_squares() -> None:
    shapes = {"square": (50, 50), "tall": (90, 45), "wide": (30, 40)}
    names = (("square", "tall"), ("tall", "square"), ("wide", "tall"))
    pairs = Shapes(shapes, tuple(TrainingPair(target, target, other, ("x",)) for target, other in names))
    panels = sized_pairs(pairs, 128, aspect_buckets=True)  # type: ignore[arg-type]
    expected = [panel_size(*shapes[target], 128) for target, _ in names]
    assert [(item.height, item.width) for item in panels] == expected
    assert expected[0] == (128, 128) and expected[1][0] > expected[1][1] and expected[2][0] < expected[2][1]
    squares = sized_pairs(pairs, 128, aspect_buckets=False)  # type: ignore[arg-type]
    assert {(item.height, item.width) for item in squares} == {(128, 128)}
    assert [item.pair for item in squares] == list(pairs.pairs)
    assert panels[1].target == PanelPicture("tall", "target", *expected[1])
    assert panels[1].reference == PanelPicture("square", "reference", *expected[1])


@pytest.mark.parametrize("batch_size", [1, 24, 25])
def test_batches_of_one_pair_and_of_all_pairs(batch_size: int) -> None:
    plan = BatchPlan(sized({(32, 32): 24}), batch_size, seed=0)
    assert plan.epoch_length == (24 if batch_size == 1 else 1)
    assert {item for batch in epoch(plan, 0) for item in batch} == set(sized({(32, 32): 24}))
