"""When a picture counts as consistent, and the two measures made of that: the same wherever they are counted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

ROUNDING = 1e-6
"""By less than this a number is not above another: 4 of 5 in float32 is .80000001, in a table .80000."""


def is_consistent(identity: float, cutoff: float) -> bool:
    """Whether an identity measure (VSM, or another in its place) lies above the cut-off, by more than rounding.

    VSM is a share of few matches, so it may be the cut-off itself: 4 of 5 is not above .8, whatever the precision.
    NaN is not consistent.
    """
    return identity - cutoff > ROUNDING


def consistency(pictures: Sequence[tuple[float, float]], cutoff: float) -> tuple[float, float]:
    """Consistency ratio and diversity over consistency of pictures' (VSM, nSSM); NaN where nothing is defined."""
    defined = [(vsm, nssm) for vsm, nssm in pictures if not math.isnan(vsm)]
    moved = [nssm for vsm, nssm in defined if is_consistent(vsm, cutoff) and not math.isnan(nssm)]
    ratio = statistics.fmean(is_consistent(vsm, cutoff) for vsm, _ in defined) if defined else math.nan
    return ratio, statistics.fmean(moved) if moved else math.nan
