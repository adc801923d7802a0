"""Sentences that are right whatever the numbers say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from divrl_core.evaluation.standings.disagreement import by_disagreement, chosen_metric, cutoff_of
from divrl_core.evaluation.standings.standings import Standings
from divrl_core.evaluation.standings.verdict import (
    compare,
    comparisons,
    difference_words,
    headline,
    leads_in_words,
    sentences,
)

from ..made_evaluation import STYLE, make_evaluation, with_values


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return make_evaluation(folder, models=("base", "better", "alike", "trained"), with_pictures=False)


def of(made, *names):
    return Standings(replace(made, models=tuple(one for one in made.models if one.name in names)))


def shorts(found):
    return [column.short for column, _ in found]


def test_a_better_model_is_better_where_it_truly_is_and_nowhere_else(made) -> None:
    found = compare(Standings(made), made.models[1], made.models[0])
    assert "CLIP-T" in shorts(found.better) and "MTG-nSSM" in shorts(found.better)
    assert {"VSM", "Identity error"} <= set(shorts(found.worse))  # of an error, more is worse
    assert shorts(found.neither) == ["LPIPS"] and found.rewarded == () and found.unknown == ()


def test_a_model_that_is_alike_is_within_noise_on_everything(made) -> None:
    found = compare(Standings(made), made.models[2], made.models[0])
    assert found.better == found.worse == found.rewarded == ()
    (sentence,) = sentences(found)
    assert sentence.startswith("Within noise: consistency ratio ")


def test_what_was_rewarded_proves_nothing_and_is_counted_apart(made) -> None:
    found = compare(Standings(made), made.models[3], made.models[0])
    assert shorts(found.rewarded) == ["consistency ratio", "VSM"]
    assert "VSM" not in shorts(found.better)
    assert any("which proves nothing: consistency ratio +" in line for line in sentences(found))


def test_to_lose_on_what_one_was_rewarded_for_is_a_finding(made) -> None:
    standings = Standings(made)
    found = compare(standings, made.models[0], made.models[3])  # base less trained
    assert "VSM" in shorts(found.rewarded)  # trained is ahead, and was paid for it
    assert any(line.startswith("The one ahead was rewarded by it") for line in sentences(found))
    turned = replace(made, models=(replace(made.models[0], trained_on=("vsm",)), made.models[1]))
    found = compare(Standings(turned), turned.models[1], turned.models[0])
    assert "VSM" in shorts(found.rewarded) and "VSM" not in shorts(found.worse)
    turned = replace(made, models=(made.models[0], replace(made.models[1], trained_on=("vsm",))))
    found = compare(Standings(turned), turned.models[1], turned.models[0])
    assert "VSM" in shorts(found.worse) and found.rewarded == ()


def test_headlines_hold_for_one_two_and_more_models_and_for_nothing(made) -> None:
    assert headline(of(made, "base")) == "base alone: there is nothing to compare it with yet."
    assert headline(of(made, "base", "better")).startswith(
        "better is better than base on 6 measures and worse on 4;"
    )
    assert headline(of(made, "base", "trained")).endswith("2 no proof because the one ahead was rewarded.")
    assert (
        headline(Standings(made)) == "Beyond noise, better leads on 6 measures (behind base on 4) and "
        "trained leads on 3 measures (behind base on 6)."
    )
    assert leads_in_words(Standings(made)).startswith("better leads on diversity over consistency, ")
    assert headline(of(made, "base", "alike")) == "alike cannot be told from base: 12 measures within noise."
    assert headline(Standings(with_values(made, {one.name: {} for one in made.models}))) == (
        "Nothing has been measured yet."
    )


def test_with_too_few_references_nothing_is_claimed(tmp_path) -> None:
    standings = Standings(make_evaluation(tmp_path, references=4, with_pictures=False))
    assert headline(standings) == "No difference can be told from noise: 5 references are needed for that."
    assert len(comparisons(standings)) == 2
    assert sentences(comparisons(standings)[0])[0].startswith(
        "No interval can be given for consistency ratio,"
    )


def test_an_amount_has_its_sign_and_its_interval(made) -> None:
    found = compare(Standings(made), made.models[1], made.models[0])
    amount = difference_words({column.short: one for column, one in found.worse}["VSM"])
    assert amount.startswith("−.0") and "\u00a0[−.0" in amount and amount.endswith("]")


def test_failures_come_first_then_the_widest_apart(made) -> None:
    metric = chosen_metric(made)
    assert metric is not None and metric.name == "vsm"
    order = by_disagreement(made, metric)
    assert len(order) == 144
    failures = [one.is_failure for one in order]
    assert failures == sorted(failures, reverse=True) and any(failures)
    spreads = [one.spread for one in order if one.is_failure]
    assert spreads == sorted(spreads, reverse=True)
    first = order[0]
    assert min(first.values.values()) <= 0.6 < max(first.values.values())
    # Style is not VSM's business.
    assert {one.question.number for one in order[-48:]} == {STYLE}


def test_a_missing_value_is_a_failure_and_a_metric_without_a_cutoff_has_no_other(made) -> None:
    place = next(iter(made.values["base"]))
    fewer = with_values(
        made, {"base": {key: one for key, one in made.values["base"].items() if key != place}}
    )
    metric = chosen_metric(fewer, "clip_t")
    assert metric is not None
    order = by_disagreement(fewer, metric)
    assert [one.place for one in order if one.is_failure] == [place] == [order[0].place]
    assert (cutoff_of(made, "vsm"), cutoff_of(made, "sdino"), cutoff_of(made, "clip_t")) == (0.6, 0.75, None)


def test_a_metric_that_pictures_have_not_is_refused_with_those_they_have(made) -> None:
    with pytest.raises(ValueError, match=r"sorted by set_distance: expected one of clip_t, vsm, .*; take"):
        chosen_metric(made, "set_distance")
    assert chosen_metric(replace(made, measured=())) is None
