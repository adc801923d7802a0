"""The maps show what the measures compute: equal maps for nSSM 0, colour exactly where VSM fails."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.sheets import to_picture
from divrl_core.evaluation.structure_maps import (
    identity_failure,
    identity_picture,
    identity_sheet,
    self_similarity,
    structure_sheet,
)
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.pocket.references import PocketReferences
from divrl_core.rewards.nssm import nssm, reference_structure
from divrl_core.selection.judge import Judge


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig(name="pocket"))


@pytest.fixture(scope="module")
def figure() -> tuple[torch.Tensor, torch.Tensor]:
    """A held-out figure and its mask."""
    references = PocketReferences(split="held_out", count=1)
    drawn = references.load(references.reference_id(0), 128)
    return drawn.image, drawn.mask


def test_nssm_is_one_minus_the_correlation_of_the_two_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    reference, generated = torch.randn(2, 7, 6, 6, generator=generator)
    mask = torch.rand(6, 6, generator=generator) > 0.4
    maps = [self_similarity(one, mask) for one in (reference, generated)]
    off = ~torch.eye(len(maps[0]), dtype=torch.bool)
    correlation = torch.corrcoef(torch.stack([one[off] for one in maps]))[0, 1]
    expected = float(nssm(generated[None], reference_structure(reference, mask)))
    assert 1 - float(correlation) == pytest.approx(expected, abs=1e-5)


def test_pooling_is_that_of_nssm() -> None:
    features = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert self_similarity(features, mask, pool=2).shape == (16, 16)


def test_colour_lies_exactly_where_a_match_does_not_agree(
    backbone: Backbone, figure: tuple[torch.Tensor, torch.Tensor]
) -> None:
    image, mask = figure
    judge = Judge(backbone, to_picture(image), mask.numpy())
    recoloured = torch.where(mask, image.flip(0), image)[None]  # red and blue exchanged on the figure
    judged = judge.score(torch.cat([image[None], recoloured]))
    failure, kept = identity_failure(judged, judge.features((128, 128)), judge.settings)
    failing = (failure > 0).flatten(1).sum(dim=1)
    matched = kept.flatten(1).sum(dim=1)
    assert not bool((failure[~kept] > 0).any())
    torch.testing.assert_close(1 - failing / matched, judged.scores.vsm)
    assert int(failing[0]) < int(failing[1])


def test_a_picture_without_failure_stays_grey() -> None:
    picture = torch.rand(3, 32, 32)
    clean = np.asarray(identity_picture(picture, torch.zeros(4, 4)))
    assert (clean[..., 0] == clean[..., 1]).all() and (clean[..., 1] == clean[..., 2]).all()
    failure = torch.zeros(4, 4)
    failure[0, 0] = 1.0
    shown = np.asarray(identity_picture(picture, failure)).astype(int)
    coloured = np.abs(shown[..., 0] - shown[..., 2]) > 20
    assert coloured[:8, :8].all()
    assert not coloured[8:, :].any() and not coloured[:, 8:].any()


def test_sheets_have_a_column_for_the_reference_and_one_each(
    figure: tuple[torch.Tensor, torch.Tensor],
) -> None:
    image, _ = figure
    matrix = self_similarity(torch.randn(5, 6, 6), torch.ones(6, 6, dtype=torch.bool))
    one = structure_sheet(image, matrix, [image], [matrix], [0.0])
    two = structure_sheet(image, matrix, [image] * 2, [matrix] * 2, [0.0, float("nan")])
    assert two.width - one.width == one.width - structure_sheet(image, matrix, [], [], []).width
    failure, kept = torch.zeros(6, 6), torch.ones(6, 6, dtype=torch.bool)
    assert identity_sheet(image, [image], [failure], [kept], [1.0]).width == one.width
