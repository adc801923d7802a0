"""What an evaluation says of models whose truth is known, and what is worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from divrl_core.evaluation.contest.evaluated import Evaluation
from divrl_core.evaluation.contest.records import Place
from divrl_core.evaluation.standings.bootstrap import Interval
from divrl_core.evaluation.standings.columns import Column, columns_of
from divrl_core.evaluation.standings.ranking import favours, in_order, marks
from divrl_core.evaluation.standings.standings import Standings, collections_of, part_of
from divrl_core.evaluation.standings.tallies import tally

from ..made_evaluation import make_evaluation, with_values


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Evaluation:
    folder = tmp_path_factory.mktemp("made")
    return make_evaluation(folder, models=("base", "better", "alike", "trained"), with_pictures=False)


def column(evaluation: Evaluation, name: str) -> Column:
    return next(one for one in columns_of(evaluation) if one.name == name)


def test_a_true_difference_is_found_and_none_where_there_is_none(made) -> None:
    standings = Standings(made)
    base, better, alike, _ = standings.models
    found = standings.difference(column(made, "clip_t"), better, base)
    assert found.low < 0.1 < found.high and found.side_of(0) == 1
    assert (found.n, found.questions, found.references) == (144, 72, 24)
    assert standings.difference(column(made, "clip_t"), alike, base).side_of(0) == 0


def test_the_difference_the_other_way_is_the_same_with_its_sign_turned(made) -> None:
    standings = Standings(made)
    base, better, *_ = standings.models
    one, other = (
        standings.difference(column(made, "clip_t"), *pair) for pair in ((base, better), (better, base))
    )
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_questions_of_style_count_where_they_should(made) -> None:
    standings = Standings(made)
    base = standings.models[0]
    assert standings.mean(column(made, "clip_t"), base).n == 24 * 3 * 2
    assert standings.mean(column(made, "vsm"), base).n == 24 * 2 * 2
    assert standings.mean(column(made, "consistency_ratio"), base).n == 24 * 2 * 2
    assert standings.mean(column(made, "set_distance"), base).n == 24 * 3


def small(made: Evaluation) -> Evaluation:
    """Base and better; two references with two plain questions of two pictures, all VSM and nSSM given."""
    questions = [
        one for one in made.questions if one.reference_id in ("fox_00", "teapot_01") and not one.is_style
    ]
    numbers = {  # (VSM, nSSM) of fox 0, fox 1, teapot 0, teapot 1, two each
        "base": [
            (0.7, 0.1),
            (0.5, 0.9),
            (0.9, 0.3),
            (math.nan, 0.5),
            (0.8, math.nan),
            (0.1, 0.2),
            (0.65, 0.2),
            (0.2, 0.1),
        ],
        "better": [(0.9, 0.5), (0.9, 0.7), (0.6, 0.9), (0.9, 0.9), (0.9, 0.4), (0.9, 0.2), (0.9, 0.6)],
    }
    places = [
        Place(reference_id=one.reference_id, number=one.number, k=k) for one in questions for k in (0, 1)
    ]
    values = {
        model: {place: {"vsm": vsm, "nssm": nssm} for place, (vsm, nssm) in zip(places, rows)}
        for model, rows in numbers.items()
    }
    kept = replace(made, questions=tuple(questions), models=made.models[:2])
    return with_values(kept, values)


def test_derived_columns_are_ratios_worked_by_hand(made) -> None:
    evaluation = small(made)
    shares = tally(evaluation, column(evaluation, "consistency_ratio"))
    base = shares.of("base")
    assert base.value == pytest.approx(4 / 7)  # .7 .9 .8 .65 of seven with a VSM
    assert (base.n, base.undefined, base.missing, base.references) == (7, 1, 0, 2)
    better = shares.of("better")
    assert better.value == pytest.approx(6 / 7)  # .6 is not above .6
    assert (better.n, better.undefined, better.missing) == (7, 0, 1)
    assert not base.is_known  # of two references

    diversity = tally(evaluation, column(evaluation, "diversity_over_consistency"))
    base = diversity.of("base")
    assert base.value == pytest.approx((0.1 + 0.3 + 0.2) / 3)  # .8 has no nSSM
    assert (base.n, base.questions, base.undefined) == (3, 3, 2)
    assert diversity.of("better").value == pytest.approx((0.5 + 0.7 + 0.9 + 0.4 + 0.2 + 0.6) / 6)


def test_differences_are_over_the_pictures_of_which_both_have_a_value(made) -> None:
    evaluation = small(made)
    shares = tally(evaluation, column(evaluation, "consistency_ratio")).difference("better", "base")
    # Without the fourth (base undefined) and the eighth (better missing): 5 of 6 less 4 of 6.
    assert shares.value == pytest.approx(5 / 6 - 4 / 6)
    assert (shares.n, shares.undefined, shares.missing) == (6, 1, 1)
    diversity = tally(evaluation, column(evaluation, "diversity_over_consistency")).difference(
        "better", "base"
    )
    # Of the five that both have: better's .5 .7 .2 .6 (.6 is not above .6), base's .1 .3 .2.
    assert diversity.value == pytest.approx((0.5 + 0.7 + 0.2 + 0.6) / 4 - 0.2)
    assert diversity.n == 3


def test_without_the_second_metric_nothing_is_derived(made) -> None:
    fewer = replace(made, measured=tuple(one for one in made.measured if one.metric.name != "nssm"))
    names = [one.name for one in columns_of(fewer)]
    assert "consistency_ratio" not in names and "dino_consistency_ratio" in names
    labels = [one.label for one in columns_of(made)]
    assert labels[:4] == [
        "Consistency ratio (VSM > .6)",
        "Diversity over consistency (MTG-nSSM where VSM > .6)",
        "Consistency ratio (sDINO > .75)",
        "Diversity over consistency (DINO-nSSM where sDINO > .75)",
    ]


def test_the_best_is_marked_only_beyond_noise_of_all_behind_it(made) -> None:
    standings = Standings(made)
    found = {model.name: standings.standing(column(made, "clip_t"), model).mark for model in standings.models}
    # base and alike are level, so there is no second.
    assert found == {"base": None, "better": "best", "alike": None, "trained": None}


def intervals(**values: float) -> dict[str, Interval]:
    return {name: Interval(value=value, low=value, high=value) for name, value in values.items()}


def beyond(least: float, values: dict[str, Interval]):
    def difference(first: str, second: str) -> Interval:
        value = values[first].value - values[second].value
        return Interval(value=value, low=value - least, high=value + least)

    return difference


def test_marks_worked_by_hand(made) -> None:
    higher, lower, neither = (column(made, name) for name in ("clip_t", "identity_error", "lpips"))
    values = intervals(a=0.5, b=0.7, c=0.6)
    assert marks(higher, values, beyond(0.05, values)) == {"b": "best", "c": "second"}
    assert marks(lower, values, beyond(0.05, values)) == {"a": "best", "c": "second"}
    assert marks(neither, values, beyond(0.05, values)) == {}
    assert marks(higher, values, beyond(0.15, values)) == {}  # b and c within noise
    near = intervals(a=0.58, b=0.7, c=0.6)
    assert marks(higher, near, beyond(0.05, near)) == {"b": "best"}  # c and a within noise
    two = intervals(a=0.5, b=0.7)
    assert marks(higher, two, beyond(0.05, two)) == {"b": "best"}
    one = intervals(a=0.5, b=math.nan)
    assert marks(higher, one, beyond(0.05, one)) == {}


def test_what_is_printed_as_nothing_is_nothing(made) -> None:
    clip_t = column(made, "clip_t")
    assert favours(clip_t, Interval(value=0.0004, low=0.0003, high=0.0005)) == 0
    assert favours(clip_t, Interval(value=0.0006, low=0.0003, high=0.0009)) == 1
    assert favours(column(made, "identity_error"), Interval(value=0.0006, low=0.0003, high=0.0009)) == -1


def test_models_without_a_value_are_in_no_order(made) -> None:
    values = intervals(a=0.5, b=math.nan, c=0.6)
    assert in_order(column(made, "clip_t"), values) == ["c", "a"]
    assert in_order(column(made, "lpips"), values) == []


def test_what_a_model_was_rewarded_by_is_flagged_with_what_is_derived_from_it(made) -> None:
    standings = Standings(made)
    trained = standings.models[3]
    flagged = [one.name for one in standings.columns if standings.standing(one, trained).is_rewarded]
    assert flagged == ["consistency_ratio", "vsm"]
    assert not any(standings.standing(one, standings.models[0]).is_rewarded for one in standings.columns)


def test_a_part_has_its_own_numbers(made) -> None:
    assert collections_of(made) == ("animal", "object")
    part = Standings(part_of(made, lambda question: question.collection == "animal"))
    found = part.mean(column(made, "clip_t"), part.models[0])
    assert (found.n, found.references) == (72, 12)
    assert collections_of(part.evaluation) == ()
