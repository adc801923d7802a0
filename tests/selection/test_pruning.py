"""When candidates are stopped: plans, their words, and what they cost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.selection.pruning import Cut, identity_bar, parse_plan, planned_steps, pruning_plan

LAW = settings(deadline=None, derandomize=True, max_examples=60)


def test_the_field_s_example_costs_176_evaluations_instead_of_448() -> None:
    # 16 candidates for 4 steps, 8 for 4 more, 4 for the remaining 20: 64 + 32 + 80
    plan = parse_plan("4:8 8:4", candidates=16, keep=4, steps=28)
    assert planned_steps(plan, 16, 28) == 64 + 32 + 80
    assert planned_steps((), 16, 28) == 448
    # survivors that start again: 16 x 4 + 8 x 8 + 4 x 28
    assert planned_steps(plan, 16, 28, starts_again=True) == 64 + 64 + 112


@LAW
@given(candidates=st.integers(1, 64), steps=st.integers(1, 60), data=st.data())
def test_a_plan_never_stops_those_that_are_kept_and_never_costs_more(
    candidates: int, steps: int, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, candidates))
    plan = pruning_plan(candidates, keep, steps)
    alive, done = candidates, 0
    for cut in plan:
        assert done < cut.after_step < steps
        assert keep <= cut.survivors < alive
        alive, done = cut.survivors, cut.after_step
    assert planned_steps(plan, candidates, steps) <= candidates * steps


def test_twice_as_many_reach_the_end_as_are_kept() -> None:
    assert pruning_plan(8, 2, 28) == (Cut(4, 4),)
    assert pruning_plan(16, 2, 28) == (Cut(4, 8), Cut(8, 4))
    assert pruning_plan(8, 1, 28) == (Cut(4, 4), Cut(8, 2))
    assert pruning_plan(4, 2, 28) == ()


def test_a_plan_in_words_is_taken_as_it_stands() -> None:
    assert parse_plan("4:5 8:3", 8, 2, 28) == (Cut(4, 5), Cut(8, 3))
    assert parse_plan("4:5,8:3", 8, 2, 28) == (Cut(4, 5), Cut(8, 3))
    assert parse_plan(" auto ", 8, 2, 28) == pruning_plan(8, 2, 28)


def test_a_cut_that_stops_nobody_is_left_out() -> None:
    assert parse_plan("2:8 4:4", 8, 2, 28) == (Cut(4, 4),)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("half", "STEP:SURVIVORS"),
        ("4", "STEP:SURVIVORS"),
        ("4:5:6", "STEP:SURVIVORS"),
        ("8:4 4:2", "must rise"),
        ("28:4", r"within 1\.\.27"),
        ("0:4", "must rise"),
        ("4:1", "no fewer than the 2 kept"),
        ("4:9", "from 8 candidates"),
        ("4:4 8:5", "must fall"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_words(words: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_plan(words, candidates=8, keep=2, steps=28)


@pytest.mark.parametrize(("candidates", "keep"), [(2, 3), (4, 0), (0, 0)])
def test_more_kept_than_there_are_is_refused(candidates: int, keep: int) -> None:
    with pytest.raises(ValueError, match="keep must be between 1 and the number of candidates"):
        pruning_plan(candidates, keep, 28)


def test_no_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="steps must be at least 1"):
        pruning_plan(4, 2, 0)


def test_the_bar_of_identity_rises_to_the_gate() -> None:
    assert identity_bar(0.8, 1.0) == 0
    assert identity_bar(0.8, 0.25) == pytest.approx(0.6)
    assert identity_bar(0.8, 0.0) == 0.8
