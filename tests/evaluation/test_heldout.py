"""Held-out measures: worked by hand, honest about their errors, and the same pictures for every model."""

from __future__ import annotations

import math

import pytest
import torch

from divrl_core.config import RewardConfig
from divrl_core.evaluation.heldout import HeldOut, heldout_jobs, paired_difference
from divrl_core.evaluation.heldout_summary import (
    SampleScore,
    clustered_mean,
    sample_row,
    selection_score,
    selection_summary,
    summarise,
)
from divrl_core.evaluation.paired import paired_differences
from divrl_core.training.references import PromptPair

NAN = math.nan


def score(reference: str, sample: int, nssm: float, vsm: float) -> SampleScore:
    return SampleScore(reference_id=reference, prompt="a toy", sample=sample, nssm=nssm, vsm=vsm)


FOUR = [score("a", 0, 0.2, 0.9), score("a", 1, 0.4, 0.7), score("b", 0, 0.6, 0.5), score("b", 1, 0.8, 0.1)]


def test_the_four_measures_worked_by_hand() -> None:
    summary = summarise(FOUR, consistency_cutoff=0.6)
    assert summary["nssm"] == pytest.approx(0.5)
    assert summary["vsm"] == pytest.approx(0.55)
    assert summary["consistency_ratio"] == 0.5
    assert summary["diversity_over_consistency"] == pytest.approx(0.3)  # of .2 and .4
    # References have the mean nSSM .3 and .7: spread .2828 between two units, so the error is .2.
    assert summary["nssm_se"] == pytest.approx(0.2)
    assert summary["n"] == 4 and summary["n_consistent"] == 2 and summary["undefined"] == 0


def test_undefined_scores_are_counted_and_left_out() -> None:
    summary = summarise([*FOUR, score("c", 0, NAN, 0.9), score("c", 1, 0.1, NAN)], consistency_cutoff=0.6)
    assert summary["undefined"] == 2 and summary["n"] == 6
    assert summary["nssm"] == pytest.approx((0.2 + 0.4 + 0.6 + 0.8 + 0.1) / 5)
    assert summary["vsm"] == pytest.approx((0.9 + 0.7 + 0.5 + 0.1 + 0.9) / 5)
    assert summary["diversity_over_consistency"] == pytest.approx(0.3)


def test_nothing_consistent_leaves_diversity_undefined() -> None:
    summary = summarise([score("a", 0, 0.2, 0.1), score("b", 0, 0.4, 0.1)], consistency_cutoff=0.6)
    assert summary["consistency_ratio"] == 0 and math.isnan(summary["diversity_over_consistency"])


def true(reference: str, clean: float, turned: float, error: float) -> SampleScore:
    """A picture of a known world; one a reference."""
    return SampleScore(
        reference_id=reference,
        prompt="a toy",
        sample=0,
        nssm=0.4,
        vsm=0.8,
        clean=clean,
        identity_error=error,
        pose_change_deg=turned,
    )


def test_the_truth_is_told_where_it_is_known_worked_by_hand() -> None:
    samples = [true("a", 1, 10.0, 0.04), true("b", 1, 30.0, 0.06), true("c", 0, 90.0, 0.20)]
    summary = summarise(samples, consistency_cutoff=0.6)
    assert summary["clean_share"] == pytest.approx(2 / 3)
    assert summary["pose_change_deg"] == pytest.approx(
        20
    )  # what a broken picture seems to show counts for nothing
    assert summary["identity_error"] == pytest.approx(0.1)
    assert summary["n_clean"] == 2
    unknown = summarise(FOUR, consistency_cutoff=0.6)
    assert "clean_share" not in unknown and "clean" not in sample_row(FOUR[0])


def test_a_paired_difference_of_what_is_true_worked_by_hand() -> None:
    before = [sample_row(true("a", 1, 10.0, 0.04)), sample_row(true("b", 1, 20.0, 0.06))]
    after = [sample_row(true("a", 1, 40.0, 0.05)), sample_row(true("b", 0, 99.0, 0.30))]
    found = paired_differences(before, after, consistency_cutoff=0.6)
    assert found["clean_share"].mean == pytest.approx(-0.5)
    assert found["pose_change_deg"].mean == pytest.approx(25) and found["pose_change_deg"].n == 1
    assert found["identity_error"].mean == pytest.approx(0.125)
    plain = [{key: row[key] for key in ("reference_id", "prompt", "sample", "nssm", "vsm")} for row in before]
    assert "clean_share" not in paired_differences(plain, plain, consistency_cutoff=0.6)


def test_the_error_is_the_ordinary_one_when_every_picture_has_its_own_reference() -> None:
    values = torch.randn(50, generator=torch.Generator().manual_seed(0)).double()
    mean, error = clustered_mean([(str(place), value) for place, value in enumerate(values.tolist())])
    assert mean == pytest.approx(values.mean().item())
    assert error == pytest.approx(values.std().item() / math.sqrt(50))


def test_copies_of_a_picture_do_not_make_the_error_smaller() -> None:
    rows = [("a", 0.1), ("b", 0.5), ("c", 0.6)]
    assert clustered_mean(rows * 10)[1] == pytest.approx(clustered_mean(rows)[1])


KINDS = ("nssm", "gated", "vsm", "linear", "brightness")


def selection_of(kind: str, samples: list[SampleScore], gate: float = 0.6) -> dict[str, float]:
    reward = RewardConfig(kind=kind, recipe="paper", vsm_weight=0.25, penalty_weight=5.0)  # type: ignore[arg-type]
    return selection_summary(reward, samples, gates={"vsm": gate})


@pytest.mark.parametrize(
    ("kind", "wild", "tame"),
    [
        ("nssm", 0.6, 0.4),
        ("gated", 0.6 - 5 * 0.5**2, 0.4),
        ("vsm", 0.2, 0.8),
        ("linear", 0.25 * 0.2 + 0.75 * 0.6, 0.25 * 0.8 + 0.75 * 0.4),
        ("brightness", 0.6, 0.4),
    ],
)
def test_the_best_lora_is_the_one_that_earns_most_of_what_the_reward_pays(
    kind: str, wild: float, tame: float
) -> None:
    """A wild picture has nSSM .6 and VSM .2, a tame one .4 and .8; the gate is .7."""
    for nssm, vsm, expected in ((0.6, 0.2, wild), (0.4, 0.8, tame)):
        assert selection_of(kind, [score("a", 0, nssm, vsm)], 0.7)["selection"] == pytest.approx(expected)


def test_a_row_without_a_defined_selection_is_never_the_best() -> None:
    assert selection_score({"selection": None}) == selection_score({"selection": NAN}) == -math.inf
    assert selection_score({"selection": -0.4}) == -0.4


def test_the_error_of_the_selection_belongs_to_it_worked_by_hand() -> None:
    summary = summarise(FOUR, consistency_cutoff=0.6)
    for kind, measure in (("nssm", "nssm"), ("vsm", "vsm"), ("brightness", "nssm")):
        expected = {"selection": summary[measure], "selection_se": summary[f"{measure}_se"]}
        assert selection_of(kind, FOUR) == pytest.approx(expected)
    # "a" keeps .2 and .4, "b" pays for .1 and .5 below the gate: .55 and -.45; sums of influences +-.0625
    assert selection_of("gated", FOUR) == pytest.approx({"selection": 0.175, "selection_se": 0.125})
    # .375 and .475 for "a", .575 and .625 for "b": sums of influences -+.04375
    assert selection_of("linear", FOUR) == pytest.approx({"selection": 0.5125, "selection_se": 0.0875})


@pytest.mark.parametrize("kind", KINDS)
def test_an_undefined_picture_is_left_out_of_the_selection_and_nothing_defined_leaves_none(kind: str) -> None:
    undefined = score("c", 0, NAN, NAN)
    assert selection_of(kind, [*FOUR, undefined]) == pytest.approx(selection_of(kind, FOUR))
    if kind in ("gated", "vsm", "linear"):
        half_defined = score("c", 0, 0.3, NAN)
        assert selection_of(kind, [*FOUR, half_defined]) == pytest.approx(selection_of(kind, FOUR))
    nothing = selection_of(kind, [undefined])
    assert math.isnan(nothing["selection"]) and math.isnan(nothing["selection_se"])


def pairs(references: int, prompts: int) -> list[PromptPair]:
    return [
        PromptPair(f"r{reference}#{prompt}", f"r{reference}", f"prompt {prompt}")
        for reference in range(references)
        for prompt in range(prompts)
    ]


def test_pictures_are_spread_over_references_first_then_prompts_then_numbers() -> None:
    jobs = heldout_jobs(pairs(3, 2), 8, seed=0)
    named = [(job.pair.group_id, job.sample) for job in jobs]
    first = [("r0#0", 0), ("r1#0", 0), ("r2#0", 0), ("r0#1", 0), ("r1#1", 0), ("r2#1", 0)]
    assert named == [*first, ("r0#0", 1), ("r1#0", 1)]


def test_a_pictures_noise_depends_on_its_name_and_the_seed_alone() -> None:
    few, many = heldout_jobs(pairs(3, 2), 3, seed=0), heldout_jobs(pairs(3, 2), 8, seed=0)
    assert torch.equal(few[1].noise((4, 2)), many[1].noise((4, 2)))
    noises = [job.noise((4, 2)) for job in [*many, heldout_jobs(pairs(1, 1), 1, seed=1)[0]]]
    for place, noise in enumerate(noises):
        assert not any(torch.equal(noise, other) for other in noises[:place])


def heldout(samples: list[SampleScore], cutoff: float = 0.6) -> HeldOut:
    summary = summarise(samples, consistency_cutoff=cutoff)
    return HeldOut(settings={"consistency_cutoff": cutoff}, summary=summary, samples=tuple(samples))


def test_a_paired_difference_sees_what_two_separate_errors_hide() -> None:
    later = [score(s.reference_id, s.sample, s.nssm + 0.01, s.vsm) for s in FOUR]
    difference = paired_difference(heldout(FOUR), heldout(later))["nssm"]
    assert difference.mean == pytest.approx(0.01) and difference.se == pytest.approx(0, abs=1e-12)
    assert heldout(FOUR).summary["nssm_se"] > 0.1


def test_evaluations_with_different_cut_offs_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"one consistency cut-off, got 0\.6 and 0\.7"):
        paired_difference(heldout(FOUR), heldout(FOUR, cutoff=0.7))
