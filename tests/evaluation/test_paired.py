from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.evaluation.paired import Difference, paired_differences

SCORE = st.floats(0, 1, allow_nan=False)


def samples(rows: list[tuple[str, int, float | None, float | None]]) -> list[dict]:
    return [
        {"reference_id": reference, "prompt": "p", "sample": number, "nssm": nssm, "vsm": vsm}
        for reference, number, nssm, vsm in rows
    ]


def test_means_and_standard_errors_by_hand():
    before = samples([("a", 0, 0.1, 0.9), ("a", 1, 0.1, 0.9), ("b", 0, 0.1, 0.5), ("b", 1, 0.1, 0.5)])
    after = samples([("a", 0, 0.3, 0.9), ("a", 1, 0.3, 0.9), ("b", 0, 0.5, 0.7), ("b", 1, 0.5, 0.7)])
    found = paired_differences(before, after, consistency_cutoff=0.6)
    # nSSM: a moved by .2, b by .4: mean .3; two references, so se = std of the two means / sqrt(2) = .1.
    assert found["nssm"].mean == pytest.approx(0.3) and found["nssm"].se == pytest.approx(0.1)
    assert (found["nssm"].n, found["nssm"].references) == (4, 2)
    # Consistent before: a alone (2 of 4); after: all.
    assert found["consistency_ratio"].mean == pytest.approx(0.5)
    # Diversity over consistency: before .1 (a), after (.3 + .3 + .5 + .5) / 4 = .4.
    assert found["diversity_over_consistency"].mean == pytest.approx(0.3)
    assert found["diversity_over_consistency"].n == 2


def test_pictures_of_one_reference_do_not_count_as_independent():
    moves = {"a": 0.0, "b": 0.1, "c": 0.2}
    few = [(name, 0, 0.0, 0.5) for name in moves]
    many = [(name, number, 0.0, 0.5) for name in moves for number in range(50)]

    def error_of(rows: list) -> float:
        after = samples([(name, number, moves[name], vsm) for name, number, _, vsm in rows])
        return paired_differences(samples(rows), after, consistency_cutoff=0.6)["nssm"].se

    assert error_of(many) == pytest.approx(error_of(few))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=12))
def test_a_difference_is_the_opposite_when_the_models_change_places(scores):
    before = samples([(str(index), 0, nssm, vsm) for index, (nssm, vsm) in enumerate(scores)])
    after = samples([(str(index), 0, vsm, nssm) for index, (nssm, vsm) in enumerate(scores)])
    forth = paired_differences(before, after, consistency_cutoff=0.5)
    back = paired_differences(after, before, consistency_cutoff=0.5)
    for measure, difference in forth.items():
        if math.isfinite(difference.mean):
            assert difference.mean == pytest.approx(-back[measure].mean, abs=1e-12)
        if math.isfinite(difference.se):
            assert difference.se == pytest.approx(back[measure].se, abs=1e-12)


def test_undefined_scores_leave_their_pair_out_and_are_never_zero():
    before = samples([("a", 0, 0.2, None), ("b", 0, math.nan, 0.4), ("c", 0, 0.2, 0.4)])
    after = samples([("a", 0, 0.3, 0.8), ("b", 0, 0.9, 0.5), ("c", 0, 0.3, 0.6)])
    found = paired_differences(before, after, consistency_cutoff=0.5)
    assert found["nssm"].mean == pytest.approx(0.1) and found["nssm"].n == 2
    assert found["vsm"].mean == pytest.approx(0.15) and found["vsm"].n == 2
    assert math.isnan(found["diversity_over_consistency"].mean)


def test_only_pictures_that_both_models_made_are_compared():
    before, after = (
        samples([("a", 0, 0.1, 0.5), ("b", 0, 0.1, 0.5)]),
        samples([("b", 0, 0.2, 0.5), ("c", 0, 9.0, 0.5)]),
    )
    assert paired_differences(before, after, consistency_cutoff=0.6)["nssm"].mean == pytest.approx(0.1)
    assert paired_differences(before, samples([("z", 0, 1, 1)]), consistency_cutoff=0.6) == {}


def test_a_movement_needs_two_standard_errors():
    assert Difference(0.1, 0.04, 8, 4).direction == 1
    assert Difference(-0.1, 0.04, 8, 4).direction == -1
    assert Difference(0.1, 0.06, 8, 4).direction == 0
    assert Difference(0.1, math.nan, 1, 1).direction == 0
    assert Difference(0.0004, 0.0, 8, 4).direction == 0, "printed as .000"
