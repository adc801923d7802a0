"""Who is kept, and who goes on: the gate before everything, undefined scores after everything."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.selection.choice import MODES, Measured, choose, survivors

NAN = float("nan")

LAW = settings(deadline=None, derandomize=True, max_examples=60)


def measured(nssm: list[float], vsm: list[float], distances: torch.Tensor | None = None) -> Measured:
    """Measures with distances that follow nSSM on a line, where none are given."""
    first = torch.tensor(nssm)
    apart = (first[:, None] - first[None, :]).abs() if distances is None else distances
    return Measured(nssm=first, vsm=torch.tensor(vsm), matches=torch.ones(len(nssm)), distances=apart)


def test_reward_takes_the_highest_nssm_among_those_that_pass() -> None:
    choice = choose(measured([0.9, 0.2, 0.5, 0.4], [0.1, 0.9, 0.6, 0.5]), mode="reward", keep=2, gate=0.5)
    assert choice.kept == (2, 3)
    assert choice.passed == (True, True)
    assert choice.shortfall == 0


def test_a_failure_never_goes_before_a_pass_however_diverse_it_is() -> None:
    choice = choose(measured([1.9, 0.01], [0.49, 0.5]), mode="reward", keep=2, gate=0.5)
    assert choice.kept == (1, 0)
    assert choice.passed == (True, False)


def test_where_nothing_passes_the_nearest_are_returned_and_marked() -> None:
    choice = choose(measured([0.9, 0.2, 0.5], [0.1, 0.4, 0.3]), mode="diverse set", keep=2, gate=0.5)
    assert choice.kept == (1, 2)
    assert choice.shortfall == 2


def test_undefined_scores_come_last() -> None:
    choice = choose(measured([NAN, 0.2, 0.5], [0.9, NAN, 0.1]), mode="reward", keep=3, gate=0.5)
    assert choice.kept[0] == 2
    assert choice.passed == (False, False, False)


def test_where_nothing_is_defined_the_first_are_returned_and_marked() -> None:
    choice = choose(measured([NAN, 0.2, NAN], [0.9, NAN, NAN]), mode="reward", keep=2, gate=0.5)
    assert choice.kept == (0, 1)
    assert choice.shortfall == 2


def test_a_diverse_set_leaves_the_twin_of_its_best_out() -> None:
    distances = torch.tensor([[0.0, 0.01, 0.6], [0.01, 0.0, 0.6], [0.6, 0.6, 0.0]])
    twins = measured([0.9, 0.89, 0.5], [0.9, 0.9, 0.9], distances)
    assert set(choose(twins, mode="reward", keep=2, gate=0.5).kept) == {0, 1}
    assert 2 in choose(twins, mode="diverse set", keep=2, gate=0.5).kept


def test_early_steps_only_reject_clear_failures() -> None:
    early = measured([0.9, 0.8, 0.1], [0.3, 0.1, 0.9])
    # at t = .5 the bar of a gate of .5 is .25: picture 0 goes on, which the gate itself would not let pass
    assert survivors(early, mode="reward", count=1, gate=0.5, t=0.5) == [0]
    assert survivors(early, mode="reward", count=1, gate=0.5, t=0.0) == [2]
    # a blurred picture that matches nothing yet is no failure
    blurred = measured([0.9, 0.8], [NAN, 0.9])
    assert survivors(blurred, mode="reward", count=1, gate=0.5, t=0.9) == [0]
    # clear failures fill up what is left, the nearest first
    assert survivors(early, mode="reward", count=3, gate=0.95, t=0.0) == [0, 1, 2]


@LAW
@given(
    scores=st.lists(
        st.tuples(st.one_of(st.just(NAN), st.floats(0, 2)), st.one_of(st.just(NAN), st.floats(0, 1))),
        min_size=1,
        max_size=7,
    ),
    mode=st.sampled_from(MODES),
    gate=st.floats(0, 1),
    data=st.data(),
)
def test_as_many_as_asked_for_each_once(
    scores: list[tuple[float, float]], mode: str, gate: float, data: st.DataObject
) -> None:
    keep = data.draw(st.integers(1, len(scores)))
    given_scores = measured([pair[0] for pair in scores], [pair[1] for pair in scores])
    alive = survivors(given_scores, mode=mode, count=keep, gate=gate, t=0.3)  # type: ignore[arg-type]
    assert len(alive) == len(set(alive)) == keep
    assert alive == sorted(alive)
    choice = choose(given_scores, mode=mode, keep=keep, gate=gate)  # type: ignore[arg-type]
    assert len(choice.kept) == len(set(choice.kept)) == keep
    passing = int((given_scores.is_defined & (given_scores.vsm >= gate)).sum())
    assert sum(choice.passed) == min(keep, passing)
    assert list(choice.passed) == sorted(choice.passed, reverse=True)


def test_measures_of_different_candidates_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of the same candidates"):
        Measured(nssm=torch.zeros(3), vsm=torch.zeros(2), matches=torch.zeros(3))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        choose(measured([0.5], [0.9]), mode="best", keep=1, gate=0.5)  # type: ignore[arg-type]


def test_reward_needs_no_distances_and_a_diverse_set_does() -> None:
    alone = Measured(nssm=torch.tensor([0.2, 0.5]), vsm=torch.tensor([0.9, 0.9]), matches=torch.ones(2))
    assert choose(alone, mode="reward", keep=1, gate=0.5).kept == (1,)
    with pytest.raises(ValueError, match="which were not measured"):
        choose(alone, mode="diverse set", keep=1, gate=0.5)


def test_a_candidate_of_unknown_distance_is_undefined() -> None:
    distances = torch.tensor([[0.0, 0.3, NAN], [0.3, 0.0, NAN], [NAN, NAN, 0.0]])
    unknown = measured([0.2, 0.3, 0.9], [0.9, 0.9, 0.9], distances)
    assert not bool(unknown.is_defined.any())  # each lacks one of its distances
    assert choose(unknown, mode="diverse set", keep=2, gate=0.5).shortfall == 2
    assert len(survivors(unknown, mode="diverse set", count=2, gate=0.5, t=0.5)) == 2
