"""Places found in a picture, D_ts of them, and nSSM inside the subject's box: laws, and numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from divrl_core.rewards.correspondence import Correspondence, cell_places, correspondences
from divrl_core.rewards.cropped import cropped_nssm, cropped_reference
from divrl_core.rewards.features import FeatureBatch, VisualFeature
from divrl_core.rewards.matched import MIRROR_VALUE, matched_distance
from divrl_core.rewards.measures import MORE_MEASURES, find_cells, more_measures
from divrl_core.rewards.nssm import nssm, reference_structure
from divrl_core.rewards.score import ReferenceFeatures, ScoreSettings, reference_features, score_images

GRID = (12, 12)
SETTINGS = ScoreSettings(tau_s=0.5, tau_v=0.5, agreement="match")
BOX = (slice(3, 8), slice(2, 6))  # where the object stands: 5 x 4 cells


def found(places: Tensor, own: Tensor) -> Correspondence:
    """Every cell found, at these places (M, 2)."""
    return Correspondence(found=torch.ones(1, len(own), dtype=torch.bool), places=places[None], own=own)


def square(side: int = 4) -> Tensor:
    return cell_places((side, side))


@pytest.mark.parametrize("size", [0.5, 1.0, 3.0])
def test_shift_and_scale_do_not_count(size: float) -> None:
    own = square()
    moved = size * own + torch.tensor([5.0, -2.0])
    assert matched_distance(found(moved, own)).item() == pytest.approx(0, abs=1e-6)


def test_rotation_counts_as_the_square_of_its_sine() -> None:
    # <X, RX> = cos(angle) for a shape as wide as high, so D = 1 - cos^2 = sin^2: .25 at 30 degrees
    own = square()
    angle = torch.tensor(torch.pi / 6)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    turned = (own - own.mean(dim=0)) @ turn.T
    assert matched_distance(found(turned, own)).item() == pytest.approx(0.25, abs=1e-6)
    assert matched_distance(found(turned, own), cap=0.1).item() == pytest.approx(0.1)


def test_a_limb_that_moves_worked_by_hand() -> None:
    # four places on a line at 0, 1, 2, 3; the last goes up by 1. X centred: -1.5 -.5 .5 1.5, |X|^2 = 5.
    # Y: the same columns; rows 0 0 0 1 less .25: |Y|^2 = 5 + .75, <X, Y> = 5; D = 1 - 25 / (5 * 5.75)
    own = torch.tensor([[0.0, 0], [0, 1], [0, 2], [0, 3]])
    raised = own + torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 0]])
    assert matched_distance(found(raised, own)).item() == pytest.approx(1 - 5 / 5.75, abs=1e-6)


def test_a_mirror_image_is_paid_little() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.rand(12, 2, generator=generator) * torch.tensor([1.0, 4.0])
    mirrored = own * torch.tensor([1.0, -1.0])
    assert matched_distance(found(mirrored, own)).item() == pytest.approx(MIRROR_VALUE)


def test_too_few_places_have_no_shape() -> None:
    own = square()
    few = Correspondence(found=(torch.arange(16) < 3)[None], places=own[None], own=own)
    assert matched_distance(few).isnan().all()
    one_point = found(torch.zeros(16, 2), own)
    assert matched_distance(one_point).isnan().all()
    with pytest.raises(ValueError, match="cap of the matched distance"):
        matched_distance(found(own, own), cap=0)


def test_every_cell_finds_itself_and_a_lost_half_is_not_covered() -> None:
    own = cell_places(GRID).reshape(*GRID, 2)[BOX].reshape(-1, 2)
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[BOX] = True
    cells = torch.eye(144)[None]  # every cell is like itself alone
    similarity = cells[:, :, inside.flatten()]
    whole = correspondences(similarity, own, GRID, tau_s=0.5)
    assert whole.found.all() and torch.equal(whole.places[0], own) and whole.coverage.item() == 1

    similarity = similarity.clone()
    similarity[:, :, 10:] = 0  # the object's last ten cells are nowhere
    half = correspondences(similarity, own, GRID, tau_s=0.5)
    assert half.coverage.item() == pytest.approx(0.5)


def test_a_lone_match_far_from_its_neighbours_is_left_out() -> None:
    own = square(4)
    similarity = torch.eye(16)[None].clone()
    similarity[0, 5] = 0  # cell 5, in the middle, ...
    similarity[0, 5, 5] = 0
    wide = torch.zeros(1, 144, 16)
    rows = (own[:, 0] - 0.5).long() * 12 + (own[:, 1] - 0.5).long()
    wide[0, rows] = similarity[0]
    wide[0, 143, 5] = 1.0  # ... is found in the far corner
    lone = correspondences(wide, own, GRID, tau_s=0.5)
    assert lone.found[0].sum() == 15 and not lone.found[0, 5]


def test_one_cell_serves_one_cell_of_the_object() -> None:
    own = square(2)
    similarity = torch.zeros(1, 4, 4)
    similarity[0, 0] = torch.tensor([0.9, 0.8, 0.7, 0.6])  # all like the picture's first cell best
    alone = correspondences(similarity, own, (2, 2), tau_s=0.5)
    assert int(alone.found.sum()) <= 1


# --- from feature maps


def scene(top: int, left: int, seed: int = 0) -> FeatureBatch:
    """A 5 x 4 object of random features at a place, on an empty ground."""
    generator = torch.Generator().manual_seed(seed)
    thing = torch.randn(1, 48, 5, 4, generator=generator)
    ground = torch.randn(1, 48, 1, 1, generator=torch.Generator().manual_seed(99)).expand(1, 48, *GRID)
    values = ground.clone()
    values[..., top : top + 5, left : left + 4] = thing
    return FeatureBatch(
        semantic=values, structure=values, visual=(VisualFeature(name="look", values=values),)
    )


def of_reference() -> ReferenceFeatures:
    mask = torch.zeros(GRID, dtype=torch.bool)
    mask[BOX] = True
    return reference_features(scene(3, 2), mask, SETTINGS)


def test_a_shift_raises_nssm_but_neither_cropped_nor_matched() -> None:
    reference = of_reference()
    scores = score_images(scene(5, 4), reference, SETTINGS, more=MORE_MEASURES[:4])
    assert scores.nssm.item() > 0.5
    assert scores.more["nssm_cropped"].item() == pytest.approx(0, abs=1e-5)
    assert scores.more["matched"].item() == pytest.approx(0, abs=1e-5)
    assert scores.more["coverage"].item() == 1
    assert scores.more["extent"].item() == 1


def test_half_an_object_has_half_the_extent() -> None:
    values = scene(3, 2).semantic.clone()
    values[..., :, :4] = values[..., :1, :1]  # its left half becomes ground
    half = FeatureBatch(
        semantic=values, structure=values, visual=(VisualFeature(name="look", values=values),)
    )
    measured = more_measures(half, of_reference(), SETTINGS, ("extent", "coverage"))
    assert measured["extent"].item() == pytest.approx(0.5)
    assert measured["coverage"].item() == pytest.approx(0.5)


def test_a_picture_that_lost_its_subject_is_measured_uncropped_and_those_beside_it_as_alone() -> None:
    """Left out, it would not be punished: a policy that draws nothing would never hear of it."""
    reference = of_reference()
    kept, lost = scene(5, 4), scene(3, 2, seed=7)
    both = FeatureBatch.cat([lost, kept])
    scores = score_images(both, reference, SETTINGS, more=("nssm_cropped", "matched"))
    alone = score_images(kept, reference, SETTINGS, more=("nssm_cropped",))
    assert scores.more["matched"][0].isnan()
    assert scores.more["nssm_cropped"][0] == scores.nssm[0] > 0.5
    assert torch.equal(scores.more["nssm_cropped"][1:], alone.more["nssm_cropped"])


def test_masks_limit_where_cells_are_found() -> None:
    nowhere = torch.zeros(1, *GRID, dtype=torch.bool)
    reference = of_reference()
    measured = more_measures(scene(3, 2), reference, SETTINGS, MORE_MEASURES[:4], masks=nowhere)
    assert measured["extent"].item() == 0 and measured["coverage"].item() == 0
    assert measured["matched"].isnan().all() and measured["nssm_cropped"].isnan().all()


def test_cropped_to_the_whole_picture_is_nssm_itself() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 1, 16, 6, 6, generator=generator)
    everywhere = torch.ones(6, 6, dtype=torch.bool)
    own = cell_places((6, 6))
    cropped = cropped_nssm(second, found(own, own), cropped_reference(first[0], everywhere))
    plain = nssm(second, reference_structure(first[0], everywhere))
    assert cropped.item() == pytest.approx(plain.item(), abs=1e-4)


def test_an_unknown_measure_and_a_missing_vector_are_named() -> None:
    with pytest.raises(ValueError, match="there is no measure 'sharpness'"):
        more_measures(scene(3, 2), of_reference(), SETTINGS, ("sharpness",))
    with pytest.raises(ValueError, match="needs a backbone that has a vector"):
        more_measures(scene(3, 2), of_reference(), SETTINGS, ("cosine",))


def test_pictures_do_not_change_each_other_s_measures() -> None:
    reference = of_reference()
    parts = [scene(3, 2), scene(6, 7), scene(1, 1, seed=5)]
    together = find_cells(FeatureBatch.cat(parts), reference, SETTINGS)
    for row, part in enumerate(parts):
        alone = find_cells(part, reference, SETTINGS)
        assert torch.equal(alone.found[0], together.found[row])
