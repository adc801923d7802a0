"""A share of few matches lies on the cut-off itself: what counts as above it must not depend on the precision."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from divrl_core.evaluation.consistency import consistency, is_consistent
from divrl_core.evaluation.experiment_results import Results
from divrl_core.evaluation.paired import Sample, paired_differences
from divrl_core.evaluation.paper_questions import QUESTIONS

CELLS = Path(__file__).resolve().parents[2] / "docs/paper-experiments/cells"


@pytest.mark.parametrize("cutoff", [0.55, 0.6, 0.7, 0.75, 0.8, 0.9])
def test_the_cutoff_itself_is_not_above_it_in_any_precision(cutoff: float) -> None:
    parts = round(cutoff * 20)
    in_float32 = float(np.float32(parts) / np.float32(20))
    assert not any(is_consistent(vsm, cutoff) for vsm in (cutoff, in_float32, round(in_float32, 5)))
    above = float(np.float32(cutoff) + np.float32(0.001))
    assert is_consistent(above, cutoff) and is_consistent(round(above, 5), cutoff)


def test_what_is_undefined_is_not_consistent_and_left_out_of_the_ratio() -> None:
    assert not is_consistent(math.nan, 0.8)
    ratio, diversity = consistency([(0.9, 0.4), (0.7, 0.6), (math.nan, 0.5), (1.0, math.nan)], 0.8)
    assert ratio == pytest.approx(2 / 3) and diversity == pytest.approx(0.4)
    assert all(math.isnan(value) for value in consistency([], 0.8))


def test_a_summary_and_a_paired_difference_count_alike_over_rounded_and_raw_scores() -> None:
    def samples(*scores: float) -> list[Sample]:
        return [
            {"reference_id": f"r{place}", "prompt": "p", "sample": 0, "nssm": 0.1, "vsm": vsm}
            for place, vsm in enumerate(scores)
        ]

    raw = [float(np.float32(4) / np.float32(5)), 0.9, 0.5]
    for scores in (raw, [round(vsm, 5) for vsm in raw]):
        found = paired_differences(samples(0.0, 0.0, 0.0), samples(*scores), consistency_cutoff=0.8)
        assert found["consistency_ratio"].mean == pytest.approx(1 / 3)
        assert consistency([(vsm, 0.1) for vsm in scores], 0.8)[0] == pytest.approx(1 / 3)


def test_a_pages_two_tables_agree_where_nothing_is_undefined() -> None:
    compared = 0
    for question in QUESTIONS.values():
        results = Results.read(CELLS, question.order)
        for claim in question.claims:
            cells = [cell for name in (claim.after, claim.before) for cell in results.cells(name)]
            if any(sample["vsm"] is None for cell in cells for sample in cell.samples):
                continue
            compared += 1
            for name in ("consistency_ratio", "diversity_over_consistency"):
                found = results.paired(claim.after, claim.before)[name].over_seeds.values
                after, before = (results.measure(model, name).values for model in (claim.after, claim.before))
                assert found == pytest.approx(np.subtract(after, before).tolist(), abs=1e-9), claim.text
    assert compared > 5
