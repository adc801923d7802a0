"""Intervals: numbers worked by hand, laws, scipy's bootstrap, and how often they hold the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.evaluation.standings.bootstrap import (
    LEAST_REFERENCES,
    Interval,
    difference_interval,
    ratio_interval,
    student_quantile,
    tail_share,
)


def of(values, references, weights=None, **more):
    values = np.asarray(values, float)
    weights = np.ones_like(values) if weights is None else np.asarray(weights, float)
    return ratio_interval(values, weights, np.asarray(references), **more)


def clustered(rng, references=20, each=6, mean=0.0):
    effects = rng.normal(0, 1, references)
    values = mean + np.repeat(effects, each) + rng.normal(0, 1, references * each)
    return values, np.repeat(np.arange(references), each)


def test_the_value_is_the_ratio_of_the_sums_and_not_the_mean_of_ratios() -> None:
    # Reference 0 has one consistent picture of 4, reference 1 three of 3: 4 of 7, not (1/4 + 1) / 2.
    found = of([1, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1])
    assert found.value == pytest.approx(4 / 7)
    # The mean of .2 and .6, .6, .9 where three of the four count: (.6 + .6 + .9) / 3.
    assert of([0, 0.6, 0.6, 0.9], [0, 0, 1, 1], [0, 1, 1, 1]).value == pytest.approx(0.7)


def test_equal_references_leave_nothing_to_doubt() -> None:
    found = of([0.2, 0.4] * 8, np.repeat(np.arange(8), 2))
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))


def test_the_spread_is_of_references_and_not_of_pictures() -> None:
    # Ten references at 0 and ten at 1: the draws' mean has a standard error of sqrt(.25 / 20) = .112, whether a
    # reference has one picture or fifty. alpha' of 20 references is .01589: 2.147 of these, .240.
    once = of([0, 1] * 10, range(20), resamples=40000)
    often = of(np.repeat([0, 1] * 10, 50), np.repeat(range(20), 50), resamples=40000)
    assert once == often
    assert tail_share(20) == pytest.approx(0.01589, abs=2e-4)
    assert once.high - once.value == pytest.approx(0.24, abs=0.02)


def test_students_quantile_is_that_of_scipy() -> None:
    for freedom in (1, 2, 3, 4, 5, 9, 30, 149):
        assert student_quantile(0.975, freedom) == pytest.approx(scipy.stats.t.ppf(0.975, freedom), rel=2e-3)


def test_it_agrees_with_scipys_bootstrap_at_the_same_percentiles() -> None:
    values, references = clustered(np.random.default_rng(1))
    values[::7] = 0  # pictures that do not count
    counts = np.ones_like(values)
    counts[::7] = 0
    tops, bottoms = (np.bincount(references, weights=one) for one in (values, counts))

    def statistic(numbers, axis):
        return tops[numbers].sum(axis=axis) / bottoms[numbers].sum(axis=axis)

    level = 1 - 2 * tail_share(20)
    theirs = scipy.stats.bootstrap(
        (np.arange(20),), statistic, n_resamples=40000, method="percentile", confidence_level=level,
        vectorized=True, rng=np.random.default_rng(2),
    ).confidence_interval  # fmt: skip
    ours = of(values, references, counts, resamples=40000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_it_agrees_with_a_loop_over_the_same_draws() -> None:
    values, references = clustered(np.random.default_rng(3), references=9, each=2)
    counts = np.random.default_rng((5, 9)).multinomial(9, np.full(9, 1 / 9), size=300)
    drawn = []
    for row in counts:
        taken = [values[references == g] for g, times in enumerate(row) for _ in range(times)]
        drawn.append(np.concatenate(taken).mean())
    tail = tail_share(9)
    expected = np.quantile(drawn, [tail, 1 - tail])
    found = of(values, references, seed=5, resamples=300)
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_a_difference_of_means_is_the_mean_of_the_paired_differences() -> None:
    rng = np.random.default_rng(4)
    first, references = clustered(rng)
    second = first + 0.1 + rng.normal(0, 0.01, len(first))
    ones = np.ones_like(first)
    paired = difference_interval((second, ones), (first, ones), references)
    of_differences = of(second - first, references)
    assert (paired.value, paired.low, paired.high) == pytest.approx(
        (of_differences.value, of_differences.low, of_differences.high)
    )
    assert paired.side_of(0) == 1
    # The references' spread, ten times the difference, cancels.
    assert of(second, references).high - of(second, references).low > 20 * (paired.high - paired.low)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(6)
    for references, least in ((6, 0.91), (20, 0.93), (60, 0.93)):
        held = 0
        for _ in range(500):
            values, names = clustered(rng, references=references, each=3)
            found = of(values, names, resamples=400)
            held += found.low <= 0 <= found.high
        assert least <= held / 500 <= 0.975, (references, held / 500)


def test_intervals_of_a_mean_over_some_pictures_hold_the_truth_too() -> None:
    # Values of 1 where a picture counts with probability .3, and its noise: the truth is 1.
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(500):
        noise, names = clustered(rng, references=25, each=4)
        counts = (rng.random(len(noise)) < 0.3).astype(float)
        found = of((1 + noise) * counts, names, counts, resamples=400)
        held += found.low <= 1 <= found.high
    assert 0.925 <= held / 500 <= 0.975, held / 500


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-10, 10), min_size=12, max_size=30),
    st.floats(-5, 5),
    st.floats(0.1, 5),
)
def test_the_value_lies_in_its_interval_which_moves_and_stretches_with_the_values(
    values, shift, scale
) -> None:
    references = np.arange(len(values)) % 6
    found = of(values, references)
    assert found.low - 1e-9 <= found.value <= found.high + 1e-9
    moved = of(np.asarray(values) * scale + shift, references)
    expected = [end * scale + shift for end in (found.value, found.low, found.high)]
    assert (moved.value, moved.low, moved.high) == pytest.approx(expected, abs=1e-8)


def test_the_order_of_pictures_does_not_matter() -> None:
    values, references = clustered(np.random.default_rng(8))
    order = np.random.default_rng(9).permutation(len(values))
    one, other = of(values, references), of(values[order], references[order])
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_too_few_references_have_a_value_and_no_interval() -> None:
    few = LEAST_REFERENCES - 1
    found = of(np.arange(4 * few), np.repeat(np.arange(few), 4))
    assert math.isfinite(found.value) and not found.is_known and found.side_of(-100) == 0
    # Many references, of which but four have a picture that counts.
    counts = np.zeros(30)
    counts[:few] = 1
    assert not of(np.ones(30), np.arange(30), counts).is_known


def test_nothing_that_counts_is_undefined() -> None:
    found = of([0.0, 0.0], [0, 1], [0, 0])
    assert math.isnan(found.value) and not found.is_known
    assert math.isnan(of([], np.zeros(0, int)).value)


def test_a_side_needs_the_whole_interval() -> None:
    assert Interval(value=1, low=0.1, high=2).side_of(0) == 1
    assert Interval(value=1, low=-0.1, high=2).side_of(0) == 0
    assert Interval(value=-1, low=-2, high=-0.1).side_of(0) == -1
    assert Interval(value=1, low=0.0, high=2).side_of(0) == 0
