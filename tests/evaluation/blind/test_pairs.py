"""Every pair once, balanced however early a person stops, and answers that survive a kill."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from divrl_core.evaluation.blind.answers import (
    Answer,
    answer_line,
    answers_file,
    append_line,
    read_judgement,
    read_judgements,
)
from divrl_core.evaluation.blind.pairs import make_pairs
from divrl_core.evaluation.contest.evaluated import Evaluation
from divrl_core.evaluation.contest.records import Place

from ..made_evaluation import make_evaluation


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Evaluation:
    return make_evaluation(tmp_path_factory.mktemp("made"), references=6, size_px=16)


def test_each_two_models_meet_once_on_each_picture(made) -> None:
    pairs = make_pairs(made)
    assert len(pairs) == 3 * 6 * 3 * 2 == len({pair.key for pair in pairs})
    assert all(pair.left != pair.right for pair in pairs)


def test_any_beginning_is_balanced(made) -> None:
    pairs = make_pairs(made)
    for stop in range(3, len(pairs) + 1, 3):
        sides = Counter((pair.left, pair.right) for pair in pairs[:stop])
        for first, second in (("base", "better"), ("base", "alike"), ("better", "alike")):
            assert abs(sides[first, second] - sides[second, first]) <= 1
            assert sides[first, second] + sides[second, first] == stop // 3
    # No reference a second time before each two models met on all six.
    for start in range(0, len(pairs), 18):
        shown = Counter(
            (frozenset((one.left, one.right)), one.place.reference_id) for one in pairs[start : start + 18]
        )
        assert set(shown.values()) == {1}


@pytest.mark.parametrize("seed", range(5))
def test_whoever_stops_early_has_seen_every_reference_about_as_often(made, seed: int) -> None:
    pairs = make_pairs(made, seed=seed)
    assert len({pair.place.reference_id for pair in pairs[:6]}) == 6
    for stop in range(6, len(pairs) + 1):
        shown = Counter(pair.place.reference_id for pair in pairs[:stop])
        assert max(shown.values()) - min(shown.values()) <= 2


def test_sides_and_order_follow_the_seed_and_cannot_be_guessed(made) -> None:
    assert make_pairs(made, seed=1) == make_pairs(made, seed=1) != make_pairs(made, seed=2)
    first_on_left = [
        pair.left == "base" for pair in make_pairs(made) if {pair.left, pair.right} == {"base", "better"}
    ]
    assert first_on_left != [place % 2 == 0 for place in range(len(first_on_left))]
    assert len(make_pairs(made, most=5)) == 5


def test_a_picture_that_is_missing_takes_its_pairs_along(tmp_path) -> None:
    evaluation = make_evaluation(tmp_path, references=2, size_px=16)
    place = Place(reference_id="fox_00", number=0, k=1)
    evaluation.picture("better", place).unlink()
    pairs = make_pairs(evaluation)
    assert len(pairs) == 3 * 2 * 3 * 2 - 2
    assert not any("better" in (pair.left, pair.right) for pair in pairs if pair.place == place)


def test_without_two_models_pictures_it_says_what_to_do(tmp_path) -> None:
    evaluation = make_evaluation(tmp_path, models=("base",), references=1, size_px=16)
    with pytest.raises(ValueError, match=r"nothing to judge \(models: base\); evaluate two models first"):
        make_pairs(evaluation)


def answer(verdict: str = "left", k: int = 0) -> Answer:
    place = Place(reference_id="fox", number=1, k=k)
    return Answer(left="a", right="b", place=place, answer=verdict, seconds=1.25)


def test_answers_come_back_as_they_were_given(tmp_path) -> None:
    path = answers_file(tmp_path, "ann")
    assert read_judgement(path).answers == ()
    for one in (answer(), answer("tie", 1), answer("bad", 2)):
        append_line(path, answer_line(one))
    append_line(path, {"undo": True})
    found = read_judgement(path)
    assert found.answers == (answer(), answer("tie", 1)) and not found.is_ended
    assert [one.winner for one in found.answers] == ["a", None]
    append_line(path, {"ended": True})
    (judgement,) = read_judgements(tmp_path)
    assert judgement.judge == "ann" and judgement.is_ended


def test_a_line_cut_off_by_a_kill_is_left_out_and_written_over(tmp_path) -> None:
    path = answers_file(tmp_path, "ann")
    append_line(path, answer_line(answer()))
    with path.open("a") as stream:
        stream.write(json.dumps(answer_line(answer("right", 1))))  # without its end of line
    assert read_judgement(path).answers == (answer(),)
    append_line(path, answer_line(answer("tie", 2)))
    assert read_judgement(path).answers == (answer(), answer("tie", 2))


def test_a_line_that_is_no_answer_is_named(tmp_path) -> None:
    path = answers_file(tmp_path, "ann")
    path.parent.mkdir()
    path.write_text('{"answer": "up"}\n')
    with pytest.raises(
        ValueError, match=r"ann.jsonl:1: is no answer .*one of left, right, tie, bad, got 'up'"
    ):
        read_judgement(path)
    path.write_text('{"undo": true}\n')
    with pytest.raises(ValueError, match=r"ann.jsonl:1"):
        read_judgement(path)


@pytest.mark.parametrize("name", ["", "../ann", "a/b", ".hidden", "a b", "x" * 65])
def test_a_judges_name_must_be_a_files(tmp_path, name) -> None:
    with pytest.raises(ValueError, match="a judge's name is a file's"):
        answers_file(tmp_path, name)
