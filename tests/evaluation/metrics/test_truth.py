"""The pocket world's truth as columns: what is true of a reference's own picture, of another pose, of a ruin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.base import Question
from divrl_core.evaluation.metrics.base import Shot, Subject
from divrl_core.evaluation.metrics.truth import METRICS, TruthScorer, truth_columns
from divrl_core.pocket.figures import background_of
from divrl_core.pocket.references import FIRST_INDEX, PocketReferences
from divrl_core.pocket.render import render
from divrl_core.pocket.world import views_of
from tests.evaluation.metrics.subjects import noise, shot, subject
from tests.evaluation.toy_references import ToyReferences


@dataclass(frozen=True)
class Known:
    is_clean: bool
    identity_error: float
    pose_change_deg: float


def test_columns_of_truths_by_hand() -> None:
    found = truth_columns([Known(True, 0.1, 30), Known(True, 0.2, 5), Known(False, 0.5, 80)])
    assert found["clean_share"].tolist() == [1, 1, 0]
    assert found["new_pose_share"].tolist() == [1, 0, 0]  # 5 degrees are not new, and a ruin is no pose
    assert found["pose_change_deg"][:2].tolist() == [30, 5] and math.isnan(found["pose_change_deg"][2])
    assert found["identity_error"].tolist() == pytest.approx([0.1, 0.2, 0.5])
    assert all(values.isnan().all() for values in truth_columns([None]).values())


def test_the_reference_another_pose_and_noise_are_what_they_are() -> None:
    references = PocketReferences(split="held_out", count=1, seed=0)
    pair = references.pairs[0]
    own, other = (views_of(FIRST_INDEX, seed=0, held_out=True)[number] for number in (0, 2))
    copy, turned = (
        Image.fromarray(render(own.identity, one.structure, background_of(pair.prompt), size_px=128).image)
        for one in (own, other)
    )
    asked = Question(pair=pair, number=0)
    shots = [
        Shot(picture=one, question=asked, k=k) for k, one in enumerate((copy, turned, noise(0, 128, 128)))
    ]
    scorer = TruthScorer.of(references)
    mask = references.load(pair.reference_id, 128).mask
    values = scorer.score(
        shots, scorer.prepare(Subject(reference_id=pair.reference_id, picture=copy, mask=mask))
    )
    assert set(values) == {metric.name for metric in METRICS}
    assert values["clean_share"].tolist() == [1, 1, 0]
    assert values["new_pose_share"].tolist() == [0, 1, 0]
    assert values["pose_change_deg"][0] < 12 < values["pose_change_deg"][1]
    assert values["identity_error"][:2].max() < 0.05 < values["identity_error"][2]
    assert len(values["set_pose_deg"]) == 1 and values["set_pose_deg"][0] > 5


def test_a_world_that_is_not_known_is_refused_and_a_picture_that_is_not_square_is_undefined() -> None:
    with pytest.raises(ValueError, match="metric truth: these references are of no known world"):
        TruthScorer.of(ToyReferences(("ant",)))
    scorer = TruthScorer(PocketReferences(split="held_out", count=1, seed=0))
    wide = [shot(noise(0, 64, 96)), shot(noise(1, 64, 96), k=1)]
    values = scorer.score(wide, scorer.prepare(subject()))
    assert {"clean_share", "set_pose_deg"} <= set(values) and all(
        one.isnan().all() for one in values.values()
    )
