from __future__ import annotations

import math

import pytest

from divrl_core.evaluation.paired import Difference
from divrl_core.evaluation.results import ModelResult
from divrl_core.evaluation.words import claims, duration, findings, headline, number, signed


def model(name: str) -> ModelResult:
    return ModelResult(name=name, origin=name, row={}, settings={})


def change(nssm: float, vsm: float, se: float = 0.01) -> dict[str, Difference]:
    return {"nssm": Difference(nssm, se, 64, 16), "vsm": Difference(vsm, se, 64, 16)}


MODELS = [model("base"), model("explore"), model("suppress")]


def differences(explored: dict, suppressed: dict, between: dict) -> dict:
    return {("explore", "base"): explored, ("suppress", "base"): suppressed, ("suppress", "explore"): between}


AS_HOPED = differences(change(0.14, -0.3), change(0.07, -0.05), change(-0.07, 0.25))


def test_a_run_that_worked_is_told_with_its_numbers():
    assert headline(MODELS, AS_HOPED) == (
        "Explore changed the structure; suppress brought identity back and kept part of the change."
    )
    text = " ".join(findings(MODELS, AS_HOPED)).replace("\u00a0", " ")
    assert "explore\u2019s nSSM rose by .140 ± .010 and its VSM fell by .300 ± .010" in text
    assert (
        "brought back 83% of the VSM that explore lost and kept 50% of the nSSM that explore gained" in text
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (
            differences(change(0.01, -0.01), change(0.0, 0.0), change(0.0, 0.01)),
            "Explore did not measurably change the structure; identity held throughout.",
        ),
        (
            differences(change(0.14, -0.3), change(0.14, -0.29), change(0.0, 0.01)),
            "Explore changed the structure; suppress did not measurably bring identity back.",
        ),
        (
            differences(change(0.14, -0.3), change(0.0, 0.0), change(-0.14, 0.3)),
            "Explore changed the structure; suppress brought identity back, and the change went with it.",
        ),
        (
            differences(change(0.14, -0.3), change(0.2, -0.4), change(0.06, -0.1)),
            "Explore changed the structure; suppress lost more identity instead of bringing it back.",
        ),
        (
            differences(change(-0.1, 0.1), change(0.0, 0.1), change(0.0, 0.0)),
            "Explore made pictures stick closer to the reference; identity held throughout.",
        ),
    ],
)
def test_the_headline_admits_what_did_not_happen(found, sentence):
    assert headline(MODELS, found) == sentence


def test_what_did_not_move_is_said_with_its_error_and_claims_no_share():
    still = differences(change(0.01, -0.01), change(0.01, 0.0), change(0.0, 0.01))
    text = " ".join(findings(MODELS, still)).replace("\u00a0", " ")
    assert "did not measurably move (+.010 ± .010)" in text
    assert "%" not in text


def test_claims_are_judged_by_sign_and_size():
    assert [claim.verdict for claim in claims(AS_HOPED)] == ["shown"] * 4
    upside_down = differences(change(-0.1, 0.1), change(-0.1, 0), change(0, -0.1))
    assert [claim.verdict for claim in claims(upside_down)] == ["the opposite"] * 4
    assert [claim.verdict for claim in claims(differences(*[change(0.1, -0.1, se=0.2)] * 3))] == [
        "not shown"
    ] * 4


def test_one_stage_is_told_against_what_it_started_from():
    two = [model("base"), model("explore")]
    assert headline(two, {("explore", "base"): change(0.1, -0.2)}) == (
        "Explore raised structural change (nSSM) and lowered identity (VSM), against the base."
    )
    assert headline(two[:1], {}).startswith("One evaluation so far")
    assert headline([], {}).startswith("Training is under way")
    assert "cannot be compared" in headline(two, {})


def test_numbers_are_written_the_same_way_everywhere():
    assert [signed(value) for value in (0.135, -0.3012, 1.5, -0.00001, math.nan)] == [
        "+.135",
        "\u2212.301",
        "+1.500",
        "+.000",
        "n/a",
    ]
    assert [number(value) for value in (0.49, -0.05, None, math.nan)] == [".490", "\u2212.050", "n/a", "n/a"]
    assert [duration(seconds).replace("\u00a0", " ") for seconds in (12.4, 520, 11100)] == [
        "12 s",
        "8 min 40 s",
        "3 h 05 min",
    ]
