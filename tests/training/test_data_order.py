"""The order of training and the held-out split: laws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.training.data import PromptPair, pick_pairs
from divrl_core.training.pair_order import first_by_hash, held_out_ids
from divrl_core.training.references import prompt_pairs


def pairs_of(count: int) -> list[PromptPair]:
    return [pair for place in range(count) for pair in prompt_pairs(f"toy-{place}", ["a toy"])]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 23), st.integers(0, 5))
def test_every_pair_comes_once_per_epoch_and_never_twice_in_an_update(
    total: int, count: int, seed: int
) -> None:
    count = min(count, total)
    pairs = pairs_of(total)
    updates = [pick_pairs(pairs, count, seed=seed, update=update) for update in range(2 * total)]
    walk = [pair for update in updates for pair in update]
    for epoch in range(len(walk) // total):
        assert set(walk[epoch * total : (epoch + 1) * total]) == set(pairs)
    assert all(len(set(update)) == count for update in updates)


def test_the_order_depends_on_seed_and_epoch_but_not_on_how_the_pairs_are_listed() -> None:
    pairs = pairs_of(30)
    first = pick_pairs(pairs, 30, seed=1, update=0)
    assert pick_pairs(pairs[::-1], 30, seed=1, update=0) == first
    assert pick_pairs(pairs, 30, seed=2, update=0) != first
    assert pick_pairs(pairs, 30, seed=1, update=1) != first


def test_the_order_is_the_same_on_every_machine_and_in_every_version() -> None:
    # By the hash alone epoch 0 runs 3 2 4 | 0 1 and epoch 1 runs 0 3 4 1 2: update 1 already holds toy 0.
    picked = [
        pair.group_id for update in range(3) for pair in pick_pairs(pairs_of(5), 3, seed=0, update=update)
    ]
    assert [int(group_id[4]) for group_id in picked] == [3, 2, 4, 0, 1, 3, 0, 4, 1]


def test_an_update_of_more_groups_than_pairs_is_refused_with_the_largest_possible_number() -> None:
    with pytest.raises(ValueError, match=r"set grpo.groups_per_update to at most 3"):
        pick_pairs(pairs_of(3), 4, seed=0, update=0)


@given(st.sets(st.text(min_size=1, max_size=6), min_size=2, max_size=40), st.integers(1, 20))
def test_held_out_references_are_few_and_do_not_depend_on_listing(ids: set[str], count: int) -> None:
    apart = held_out_ids({name: name for name in sorted(ids)}, count)
    assert apart == held_out_ids({name: name for name in sorted(ids, reverse=True)}, count)
    assert len(apart) == min(count, max(1, len(ids) // 4))
    assert apart < ids


def test_two_ids_of_one_picture_stay_on_the_same_side() -> None:
    identities = {f"toy-{place}": f"picture-{place // 2}" for place in range(16)}
    apart = held_out_ids(identities, 4)
    kept = set(identities) - apart
    assert apart and kept
    assert not {identities[name] for name in apart} & {identities[name] for name in kept}


def test_a_single_picture_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="at least 2 different pictures"):
        held_out_ids({"fox": "same", "fox-again": "same"}, 1)


def test_first_by_hash_takes_all_when_there_are_fewer() -> None:
    assert first_by_hash(["a", "b"], 5) == {"a", "b"}
    assert len(first_by_hash(["a", "b", "c"], 2)) == 2
