"""Calibration: the area under the curve and the gate by hand, and one small run on true renders."""

from __future__ import annotations

import math

import pytest
import torch

from divrl_core.evaluation.calibrate import (
    CalibrationRow,
    Grid,
    area_under_curve,
    best_gate,
    calibrate,
    share_above,
)
from divrl_core.evaluation.calibration_cases import LABELS, pocket_cases, turn_hue
from divrl_core.models.features.lite0 import CALIBRATED, Lite0Backbone
from divrl_core.rewards.score import reference_features, score_images


def test_the_area_under_the_curve_counts_ties_half_and_leaves_undefined_out() -> None:
    # Pairs (.9, .5) (.9, .1) won, (.5, .5) tied, (.5, .1) won: 3.5 of 4.
    high, low = torch.tensor([0.9, 0.5, math.nan]), torch.tensor([0.5, math.nan, 0.1])
    assert area_under_curve(high, low) == 0.875
    assert math.isnan(area_under_curve(torch.tensor([math.nan]), low))


def row_of(other_view: list[float], others: list[float]) -> CalibrationRow:
    scores = {"other view": torch.tensor(other_view)}
    scores |= {label: torch.tensor(others) for label in ("other palette", "hue turned", "other subject")}
    return CalibrationRow(
        settings=CALIBRATED,
        count=3,
        nssm={},
        vsm={},
        vsm_std={},
        undefined={},
        kept_share={},
        aucs={},
        scores=scores,
    )


def test_the_gate_lies_where_accuracy_is_best() -> None:
    row = row_of([0.6, 0.7, 0.9, math.nan], [0.1, 0.2, 0.3])
    assert 0.3 < best_gate(row) < 0.61
    assert share_above(row, 0.65)["other view"] == pytest.approx(2 / 3)


def test_turning_the_hue_keeps_value_and_saturation() -> None:
    image = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    turned = turn_hue(image, 1 / 3)
    # A third of the circle takes red to green: the channels move on by one.
    assert torch.allclose(turned, image.roll(1, dims=0), atol=1e-5)
    assert torch.allclose(turn_hue(image, 0.41).amax(0), image.amax(0), atol=1e-6)
    assert torch.allclose(turn_hue(image, 0.41).amin(0), image.amin(0), atol=1e-5)


def test_cases_are_a_pure_function_of_their_seed() -> None:
    first, again, other = (next(iter(pocket_cases(1, seed=seed))) for seed in (3, 3, 4))
    assert tuple(first.others) == LABELS
    for label in LABELS:
        assert torch.equal(first.others[label], again.others[label])
    assert not torch.equal(first.reference, other.reference)
    assert 0.02 < first.mask.float().mean() < 0.7


def test_calibration_scores_as_the_reward_does_and_ranks_by_auc() -> None:
    backbone = Lite0Backbone.load()
    cases = list(pocket_cases(3, seed=0))
    grid = Grid(image_size_px=(128,), tau_s=(0.5,), tau_v=(0.4, 0.6), agreement=("match",), weight_s8=(0.3,))
    rows = calibrate(backbone, cases, grid)
    assert len(rows) == 2 and rows[0].auc >= rows[1].auc
    row = rows[0]
    settings, sized = row.settings.score, backbone.with_settings(row.settings)
    for index, case in enumerate(cases):
        reference = reference_features(sized.extract(case.reference[None]), case.mask, settings)
        scores = score_images(sized.extract(torch.stack(list(case.others.values()))), reference, settings)
        found = torch.stack([row.scores[label][index] for label in LABELS])
        assert torch.allclose(found, scores.vsm, atol=1e-6, equal_nan=True)
    # What holds for any sensible backbone: a copy stays a copy, a repainted figure does not.
    assert row.vsm["same"] > row.vsm["other palette"] + 0.3
    assert row.nssm["same"] < row.nssm["other view"]
