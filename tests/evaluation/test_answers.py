"""Pictures of one change each, and how far a reward asks for what is wanted."""

from __future__ import annotations

import pytest
import torch

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.answer_cases import WANTED, answer_cases
from divrl_core.evaluation.answers import answers_of, mean_and_error, separations
from divrl_core.evaluation.calibration_cases import CalibrationCase
from divrl_core.models.features.base import load_backbone


@pytest.fixture(scope="module")
def cases() -> list[CalibrationCase]:
    return list(answer_cases(3, seed=5))


def test_cases_hold_every_change_and_are_a_function_of_their_seed(cases: list[CalibrationCase]) -> None:
    again = next(answer_cases(1, seed=5))
    assert all(set(case.others) == set(WANTED) for case in cases)
    assert torch.equal(cases[0].reference, again.reference)
    assert all(torch.equal(cases[0].others[name], again.others[name]) for name in WANTED)


def test_each_change_is_what_it_is_called(cases: list[CalibrationCase]) -> None:
    for case in cases:
        copy = case.others["copy"]
        assert torch.equal(case.others["mirror"], copy.flip(-1))
        figure = case.mask.sum()
        erased = (case.others["erased half"] != copy).any(dim=0)
        assert 0.3 * figure < (erased & case.mask).sum() < 0.7 * figure
        for name in ("shift", "scale", "view", "joint", "recolour", "pattern", "other figure"):
            changed = ((case.others[name] - copy).abs() > 0.1).any(dim=0)
            assert changed.any(), name


def test_measures_of_a_copy_and_of_a_shift_are_told_apart(cases: list[CalibrationCase]) -> None:
    answers = answers_of(load_backbone(BackboneConfig()), cases)
    assert "cosine" not in answers
    assert (answers["nssm"]["shift"] > 5 * answers["nssm"]["copy"]).all()
    assert (answers["matched"]["shift"] < 0.02).all()
    assert (answers["extent"]["erased half"] < 0.7 * answers["extent"]["copy"]).all()
    assert (answers["vsm"]["recolour"] < 0.6).all()


def test_separations_worked_by_hand() -> None:
    paid = {"pay": 2.0, "let be": 1.0, "punish": 0.0}
    right = {change: torch.full((4,), paid[wanted]) for change, wanted in WANTED.items()}
    assert separations(right) == {"over copies": 1.0, "over damage": 1.0, "copies over damage": 1.0}
    blind = {change: torch.zeros(4) for change in WANTED}
    assert set(separations(blind).values()) == {0.5}
    wrong = {change: -values for change, values in right.items()}
    assert set(separations(wrong).values()) == {0.0}


def test_the_mean_leaves_undefined_pictures_out_and_counts_them() -> None:
    mean, error, lost = mean_and_error(torch.tensor([1.0, 3.0, float("nan")]))
    assert (mean, error, lost) == (2.0, 1.0, 1)
