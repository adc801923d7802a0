"""The columns of a reward backbone, and DINO's dense ones: one pass a picture, the reference once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.metrics.backbone import BackboneScorer, backbone_metrics
from divrl_core.evaluation.metrics.base import Shot, Subject
from divrl_core.evaluation.metrics.dino_dense import DenseDinoScorer
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.rewards.measures import measures_of
from divrl_core.rewards.nssm import nssm, reference_structure, structure_distance
from divrl_core.rewards.similarity import resize_mask
from divrl_core.selection.judge import Judge
from divrl_core.training.pictures import frame_to, picture_tensor
from tests.evaluation.metrics.counting import SETTINGS, CountingBackbone
from tests.evaluation.metrics.small_networks import save_dino
from tests.evaluation.metrics.subjects import middle, noise, shot, subject
from tests.models.small_vision import small_model

SCORES = ("vsm", "nssm", "nssm_cropped", "matched", "coverage", "extent")


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dense") / "model")


def test_the_columns_are_what_score_gives_for_each_shape() -> None:
    scorer = BackboneScorer(Lite0Backbone.load())
    shots = [shot(noise(1), 0), shot(noise(2, 64, 96), 1), shot(noise(3), 2), shot(noise(4, 64, 96), 3)]
    reference = subject(height=80, width=60)
    values = scorer.score(shots, scorer.prepare(reference))
    judge = Judge(Lite0Backbone.load(), reference.picture, reference.mask.numpy())
    for row, one in enumerate(shots):
        scores = judge.score(picture_tensor(one.picture)[None]).scores
        assert values["nssm"][row] == scores.nssm[0]
        assert torch.equal(values["vsm"][row : row + 1].nan_to_num(-1), scores.vsm.nan_to_num(-1))
    assert set(SCORES) <= set(values)
    assert values["nssm"].std() > 0.01


def test_every_column_is_announced_and_no_other() -> None:
    scorer = BackboneScorer(CountingBackbone())
    shots = [shot(noise(1), 0, 0), shot(noise(2), 0, 1)]
    values = scorer.score(shots, scorer.prepare(subject(views=(5,))))
    assert set(values) == {metric.name for metric in scorer.metrics}
    lengths = {metric.name: 1 if metric.of_sets else 2 for metric in scorer.metrics}
    assert {name: len(column) for name, column in values.items()} == lengths
    assert all(column.dtype == torch.float32 for column in values.values())


def test_a_backbone_with_a_vector_of_the_picture_has_a_cosine_too(dino_folder: Path) -> None:
    scorer = BackboneScorer.load(BackboneConfig(name="dinov2", path=str(dino_folder)), prefix="dinov2_")
    values = scorer.score([shot(noise(1))], scorer.prepare(subject()))
    assert "dinov2_cosine" in values and {one.name for one in backbone_metrics("dinov2", "dinov2_")} >= set(
        values
    )
    assert scorer.name == "dinov2_backbone"
    features = Lite0Backbone.load().extract(picture_tensor(noise(0))[None])
    assert measures_of(features) == SCORES[2:]


def test_columns_carry_the_backbones_name_and_mtg_that_of_the_paper() -> None:
    labels = {metric.name: metric.label for metric in backbone_metrics("lite0")}
    assert labels["vsm"] == "VSM (lite0)" and labels["nssm"] == "nSSM (lite0)"
    labels = {metric.name: metric.label for metric in backbone_metrics("mtg", "mtg_")}
    assert labels["mtg_vsm"] == "VSM (MTG)" and labels["mtg_nssm"] == "MTG-nSSM"
    assert not any(metric.counts_style for metric in backbone_metrics("mtg"))


def test_evaluation_keeps_the_unpooled_grid_unless_it_is_asked_for() -> None:
    backbone = CountingBackbone()
    plain, pooled = BackboneScorer(backbone), BackboneScorer(backbone, settings=SETTINGS.score)
    assert plain.settings == replace(SETTINGS.score, nssm_pool=1)
    assert "unpooled" in plain.source and "pooled by 2" in pooled.source
    one = [shot(noise(1))]
    assert (
        plain.score(one, plain.prepare(subject()))["nssm"]
        != pooled.score(one, pooled.prepare(subject()))["nssm"]
    )
    assert BackboneScorer.load(BackboneConfig(name="pocket")).settings.nssm_pool == 1
    assert BackboneScorer.load(BackboneConfig(name="pocket", nssm_pool=2)).settings.nssm_pool == 2


def test_vsm_looks_inside_the_pictures_own_mask() -> None:
    scorer = BackboneScorer(CountingBackbone())
    reference = subject(seed=3)
    beside = noise(4)
    beside.paste(reference.picture.crop((16, 16, 48, 48)), (16, 16))  # the subject on another floor
    masked = shot(beside, mask=middle())
    values = scorer.score([masked, shot(beside)], scorer.prepare(reference))
    assert values["vsm"][0] == 1.0
    assert values["nssm"][0] == values["nssm"][1]  # which reads the reference's mask alone


def test_the_reference_itself_is_0_apart_and_all_copy() -> None:
    scorer = BackboneScorer(CountingBackbone())
    values = scorer.score([shot(noise(0)), shot(noise(7))], scorer.prepare(subject(seed=0, views=(7,))))
    assert values["nssm"][0].item() == pytest.approx(0, abs=1e-6)
    assert values["copy_paste"].tolist() == pytest.approx([1, -1], abs=1e-3)
    assert values["copy_excess"][0] > 0 and values["copy_excess"][1].item() == pytest.approx(0, abs=1e-6)
    assert math.isclose(values["extent"][0], 1)


def test_extent_is_1_of_the_reference_itself_with_and_without_its_mask_and_half_of_half_of_it() -> None:
    scorer, half = BackboneScorer(CountingBackbone()), middle()
    half[32:] = False
    same = noise(0)
    shots = [shot(same, mask=middle()), shot(same), shot(same, mask=half)]
    values = scorer.score(shots, scorer.prepare(subject(seed=0)))
    assert values["extent"].tolist() == pytest.approx([1, 1, 0.5])


def test_copies_of_one_new_pose_have_no_structure_within_the_set() -> None:
    scorer = BackboneScorer(CountingBackbone())
    shots = [shot(noise(1), 0, 0), shot(noise(2), 1, 0), shot(noise(1), 0, 1), shot(noise(3), 1, 1)]
    values = scorer.score(shots, scorer.prepare(subject()))
    same, different = values["set_distance"].tolist()
    assert same == pytest.approx(0, abs=1e-6)
    backbone, framed = CountingBackbone(), frame_to(noise(0), middle().numpy(), 64, 64)
    cells = resize_mask(framed.mask, (8, 8))
    first, second = (
        reference_structure(backbone.extract(picture_tensor(noise(seed))[None]).structure[0], cells)
        for seed in (2, 3)
    )
    assert different == pytest.approx(structure_distance(first, second), abs=1e-6)
    assert values["nssm"][0] > 0.1  # against the reference it looks new both times


def test_pictures_of_different_shapes_have_no_distance_and_pictures_alone_no_set() -> None:
    scorer = BackboneScorer(CountingBackbone())
    mixed = [shot(noise(1), 0, 0), shot(noise(2, 64, 96), 0, 1)]
    assert math.isnan(scorer.score(mixed, scorer.prepare(subject()))["set_distance"][0])
    assert "set_distance" not in scorer.score(mixed[:1], scorer.prepare(subject()))


def test_a_mask_too_small_for_the_grid_is_refused_with_the_references_name() -> None:
    tiny = torch.zeros(64, 64, dtype=torch.bool)
    tiny[30:38, 30:38] = True
    small = Subject(reference_id="mote", picture=noise(0), mask=tiny)
    scorer = BackboneScorer(CountingBackbone())
    with pytest.raises(ValueError, match=r"mote: the mask covers \d of the 8 x 8 cells"):
        scorer.score([shot(noise(1))], scorer.prepare(small))


# DINO's patches


@torch.no_grad()
def test_dense_dino_is_the_models_patches_under_the_formulas(dino_folder: Path) -> None:
    scorer = DenseDinoScorer.load(str(dino_folder))
    assert "squares of 224 px" in scorer.source and "reference's mask in both pictures" in scorer.source
    own = torch.zeros(224, 224, dtype=torch.bool)
    own[20:150, 60:200] = True
    shots = [shot(noise(1, 224, 224), mask=own), shot(noise(2, 224, 224))]
    reference = subject(height=224, width=224)
    values = scorer.score(shots, scorer.prepare(reference))

    images = torch.stack(
        [picture_tensor(one) for one in (reference.picture, *(one.picture for one in shots))]
    )
    mean, std = (torch.tensor(of)[:, None, None] for of in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    tokens = small_model("dinov2")((images - mean) / std).last_hidden_state[:, 1:]
    cells = resize_mask(reference.mask, (28, 28)).flatten()
    inside = resize_mask(own, (28, 28)).flatten()
    unit = torch.nn.functional.normalize(tokens, dim=2)
    best = (unit[1:] @ unit[0, cells].T).amax(dim=2)
    assert values["sdino"].tolist() == pytest.approx(
        [best[0, inside].mean().item(), best[1].mean().item()], abs=1e-5
    )
    maps = [(one[cells] @ one[cells].T).double() for one in unit]
    off = ~torch.eye(int(cells.sum()), dtype=torch.bool)
    for row in (0, 1):
        pearson = torch.corrcoef(torch.stack([maps[0][off], maps[row + 1][off]]))[0, 1]
        assert values["dino_nssm"][row].item() == pytest.approx(1 - pearson.item(), abs=1e-5)
    assert values["dino_nssm_own"][0] > 0 and math.isnan(values["dino_nssm_own"][1])


def test_the_own_masks_version_does_not_see_where_the_subject_stands() -> None:
    scorer = DenseDinoScorer(CountingBackbone(), origin="test")
    reference = subject(seed=3)
    moved, mask = noise(3), torch.zeros(64, 64, dtype=torch.bool)
    moved = moved.rotate(0, translate=(-16, 8))
    mask[24:56, 0:32] = True
    values = scorer.score([shot(moved, mask=mask)], scorer.prepare(reference))
    assert values["dino_nssm"][0] > 0.1
    assert values["dino_nssm_own"][0].item() == pytest.approx(0, abs=1e-3)
    assert values["sdino"][0].item() == pytest.approx(1, abs=1e-3)


def test_dino_nssm_of_pictures_of_any_shape_is_that_of_the_resized_reference() -> None:
    backbone = CountingBackbone()
    scorer = DenseDinoScorer(backbone, origin="test")
    picture, reference = noise(5, 48, 96), subject(height=80, width=60)
    framed = frame_to(reference.picture, reference.mask.numpy(), 48, 96)
    features = [backbone.extract(one[None]).structure for one in (framed.image, picture_tensor(picture))]
    expected = nssm(features[1], reference_structure(features[0][0], resize_mask(framed.mask, (8, 8))))
    found = scorer.score([shot(picture)], scorer.prepare(reference))
    assert found["dino_nssm"][0] == expected[0]
    assert "dino_nssm_own" not in found


def test_a_mask_too_small_for_the_patches_is_refused_with_the_references_name() -> None:
    tiny = torch.zeros(64, 64, dtype=torch.bool)
    tiny[30:38, 30:38] = True
    scorer = DenseDinoScorer(CountingBackbone(), origin="test")
    small = Subject(reference_id="mote", picture=noise(0), mask=tiny)
    with pytest.raises(ValueError, match=r"mote: its mask covers \d of DINO's 8 x 8 patches, at least 3"):
        scorer.score([shot(noise(1))], scorer.prepare(small))


# Counting


@pytest.mark.parametrize("kind", ["backbone", "dense"])
def test_1350_pictures_go_through_the_network_once_and_so_does_each_of_150_references(kind: str) -> None:
    backbone = CountingBackbone()
    scorer = BackboneScorer(backbone) if kind == "backbone" else DenseDinoScorer(backbone, origin="test")
    pictures = [noise(number, 32, 32) for number in range(9)]
    values = []
    for number in range(150):
        prepared = scorer.prepare(subject(f"toy-{number}", seed=number, height=32, width=32))
        for half in (
            slice(0, 4),
            slice(4, 9),
        ):  # a reference's pictures may come in parts, of several models say
            shots: list[Shot] = [
                shot(one, place, name=f"toy-{number}") for place, one in enumerate(pictures)
            ][half]
            values.append(scorer.score(shots, prepared))
    assert backbone.seen == 150 + 1350
    column = torch.cat([one["nssm" if kind == "backbone" else "dino_nssm"] for one in values])
    assert len(column) == 1350 and not column.isnan().any()
