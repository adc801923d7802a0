"""Confidence intervals by bootstrap over references.

Pictures of one reference resemble each other, so references are drawn, with replacement, and with each all its
pictures. Everything in a table is a ratio of sums over pictures,

    theta = sum_g N_g / sum_g D_g        over references g,

a mean (N_g: sum of its values, D_g: how many), a share, or the mean over some of the pictures (N_g: sum of the values
of these, D_g: how many these are). A draw b takes reference g w_bg times: theta_b = sum_g w_bg N_g / sum_g w_bg D_g. A
difference takes the same draws on both sides.

The interval is the expanded percentile interval (Hesterberg, arXiv:1411.5279, section 5.2): percentiles of theta_b at
alpha' and 1 - alpha', alpha' = Phi(-sqrt(G / (G - 1)) t), t Student's quantile with G - 1 degrees of freedom and G the
number of references with D_g > 0, the smaller one of a difference. For many references alpha' is (1 - LEVEL) / 2; for
few, where plain percentiles are too narrow, it is smaller.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL = 0.95
RESAMPLES = 2000
LEAST_REFERENCES = 5  # with fewer, no interval is given
MOST_UNDEFINED_DRAWS = 0.05  # with more draws without a single picture that counts, no interval is given


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its interval at LEVEL. NaN: undefined, the ends also where no interval can be given."""

    value: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    def side_of(self, point: float) -> int:
        """+1 where the whole interval lies above a point, -1 below, 0 where it holds it or there is none."""
        if not self.is_known or self.low <= point <= self.high:
            return 0
        return 1 if self.low > point else -1


UNDEFINED = Interval(value=math.nan, low=math.nan, high=math.nan)


def ratio_interval(
    numerators: Floats,
    denominators: Floats,
    references: Integers,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """sum of numerators / sum of denominators, each (n,), one a picture; references (n,): a number for each one's.

    Undefined where the denominators sum to 0.
    """
    sums = _sums(references, numerators, denominators)
    return _interval(lambda of: _ratio(of[0], of[1]), sums, seed, resamples, level)


def difference_interval(
    first: tuple[Floats, Floats],
    second: tuple[Floats, Floats],
    references: Integers,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The first ratio less the second over the same pictures; each (numerators, denominators), as `ratio_interval`."""
    sums = _sums(references, *first, *second)
    return _interval(lambda of: _ratio(of[0], of[1]) - _ratio(of[2], of[3]), sums, seed, resamples, level)


def tail_share(references: int, level: float = LEVEL) -> float:
    """alpha', the share of draws beyond each end of the interval."""
    tail = (1 - level) / 2
    t = student_quantile(1 - tail, references - 1)
    return NormalDist().cdf(-math.sqrt(references / (references - 1)) * t)


def student_quantile(share: float, freedom: int) -> float:
    """Student's t below which `share` lies: exact for one and two degrees of freedom, to .2% beyond.

    Beyond: Fisher and Cornish's expansion (Abramowitz and Stegun, 26.7.5).
    """
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _interval(
    statistic: Callable[[Floats], Floats], sums: Floats, seed: int, resamples: int, level: float
) -> Interval:
    """statistic: of sums (rows, draws) a value a draw. sums: (rows, references), denominators after numerators."""
    value = float(statistic(sums.sum(axis=1, keepdims=True))[0])
    references = int((sums[1::2] != 0).sum(axis=1).min())
    if references < LEAST_REFERENCES:
        return Interval(value=value, low=math.nan, high=math.nan)
    drawn = statistic(sums @ _draws(sums.shape[1], seed, resamples).T)
    known = drawn[np.isfinite(drawn)]
    if len(known) < (1 - MOST_UNDEFINED_DRAWS) * len(drawn):
        return Interval(value=value, low=math.nan, high=math.nan)
    tail = tail_share(references, level)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _sums(references: Integers, *columns: Floats) -> Floats:
    """(columns, G): the sums over each reference's pictures, of the G references that have any."""
    present, places = np.unique(references, return_inverse=True)
    sums = [np.bincount(places, weights=column, minlength=len(present)) for column in columns]
    return np.stack(sums).astype(np.float64)


@lru_cache(maxsize=16)
def _draws(references: int, seed: int, resamples: int) -> Floats:
    """(resamples, references): how often each reference is drawn."""
    generator = np.random.default_rng((seed, references))
    drawn = generator.multinomial(references, np.full(references, 1 / references), size=resamples)
    return drawn.astype(np.float64)


def _ratio(tops: Floats, bottoms: Floats) -> Floats:
    """NaN where the bottom is 0."""
    return np.divide(tops, bottoms, out=np.full_like(tops, np.nan), where=bottoms != 0)
