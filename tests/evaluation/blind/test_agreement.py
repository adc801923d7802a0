"""Preferences and agreement, counted by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from divrl_core.evaluation.blind.agreement import Agreement, agreement_lines, agreement_of
from divrl_core.evaluation.blind.answers import Answer, Judgement
from divrl_core.evaluation.contest.evaluated import Evaluation
from divrl_core.evaluation.contest.records import Place

from ..made_evaluation import STYLE, make_evaluation, with_values


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Evaluation:
    """Base and better; clip_t and identity_error of every reference's first picture are set by hand."""
    folder = tmp_path_factory.mktemp("made")
    evaluation = make_evaluation(folder, models=("base", "better"), references=8, with_pictures=False)
    values = {model: dict(evaluation.values[model]) for model in ("base", "better")}
    for number, reference in enumerate(dict.fromkeys(one.reference_id for one in evaluation.questions)):
        place = Place(reference_id=reference, number=0, k=0)
        values["base"][place] = {"clip_t": 0.3, "identity_error": 0.4}
        values["better"][place] = {
            "clip_t": [0.4, 0.4, 0.4, 0.2, 0.3, math.nan, 0.4, 0.4][number],
            "identity_error": 0.2,
        }
    return with_values(evaluation, values)


def judged(made: Evaluation, verdicts: str, number: int = 0) -> Judgement:
    """One letter a reference: A = better wins (on the left), B = base wins, t = tie, x = both bad."""
    references = list(dict.fromkeys(one.reference_id for one in made.questions))
    meaning = {"A": "left", "B": "right", "t": "tie", "x": "bad"}
    return Judgement(
        judge="ann",
        is_ended=False,
        answers=tuple(
            Answer(
                left="better",
                right="base",
                place=Place(reference_id=reference, number=number, k=0),
                answer=meaning[letter],
                seconds=1.0,
            )
            for reference, letter in zip(references, verdicts)
        ),
    )


def found(made: Evaluation, *judgements: Judgement) -> Agreement:
    agreement = agreement_of(made, judgements)
    assert agreement is not None
    return agreement


def test_ties_and_both_bad_are_counted_apart(made) -> None:
    (one,) = found(made, judged(made, "AAABAtAx")).preferences
    assert (one.first, one.second) == ("better", "base")
    assert (one.first_wins, one.second_wins, one.ties, one.both_bad) == (5, 1, 1, 1)
    assert one.share.value == pytest.approx(5 / 6)


def test_a_metric_agrees_where_it_prefers_the_same_side(made) -> None:
    metrics = {one.name: one for one in found(made, judged(made, "AAABAAAB")).metrics}
    # CLIP-T prefers better but for the fourth (base), the fifth (equal) and the sixth (undefined); people chose
    # A A A B . . A B: it agrees on the first four and the seventh of six.
    clip_t = metrics["clip_t"]
    assert clip_t.share.value == pytest.approx(5 / 6) and (clip_t.n, clip_t.left_out) == (6, 2)
    # A lower error is better, so it always prefers better: six of eight.
    assert metrics["identity_error"].share.value == pytest.approx(6 / 8)
    assert metrics["vsm"].n == 0 and metrics["vsm"].left_out == 8
    assert {"lpips", "set_distance", "consistency_ratio"} & set(metrics) == set()


def test_the_best_comes_first_and_what_says_nothing_last(made) -> None:
    agreement = found(made, judged(made, "AAABAAAB"))
    assert [one.name for one in agreement.metrics][:2] == ["clip_t", "identity_error"]
    assert all(one.n == 0 for one in agreement.metrics[2:])
    assert agreement_lines(agreement)[1].startswith("better against base: 75% [")


def test_swapped_sides_change_nothing(made) -> None:
    one = judged(made, "AAABAtAx")
    turned = replace(
        one,
        answers=tuple(
            replace(
                answer,
                left="base",
                right="better",
                answer={"left": "right", "right": "left"}.get(answer.answer, answer.answer),
            )
            for answer in one.answers
        ),
    )
    assert found(made, one) == found(made, turned)


def test_several_judges_are_put_together(made) -> None:
    both = found(made, judged(made, "AAAAAAAA"), replace(judged(made, "BBBBBBBB"), judge="bob"))
    assert both.judges == ("ann", "bob") and both.answers == 16
    assert both.preferences[0].share.value == 0.5
    assert both.summary.startswith("2 judges, 16 pairs")


def test_identity_is_not_asked_about_questions_of_style(made) -> None:
    metrics = {one.name: one for one in found(made, judged(made, "AAAAAAAA", number=STYLE)).metrics}
    assert (metrics["vsm"].n, metrics["vsm"].left_out) == (0, 0)
    assert metrics["clip_t"].n == 8


def test_nobody_having_answered_there_is_nothing(made) -> None:
    assert agreement_of(made, []) is None
    assert agreement_of(made, [judged(made, "")]) is None
