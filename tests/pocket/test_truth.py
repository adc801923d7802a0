"""The truth instrument on renders of known factors: poses are found again, damaged figures are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from divrl_core.evaluation.calibration_cases import scrambled
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.pocket.figures import PLANS, any_structure, sample_identity
from divrl_core.pocket.pose_search import nearest_poses, shrink
from divrl_core.pocket.references import PocketReferences
from divrl_core.pocket.render import render
from divrl_core.pocket.truth import changes, pixel_errors, truth_of, visible_limbs
from divrl_core.training.references import first_prompts, known_world


@pytest.fixture(scope="module")
def backbone():
    return Lite0Backbone.load()


def drawn(plan: str, seed: int):
    rng = np.random.default_rng(seed)
    identity, structure = replace(sample_identity(rng, held_out=True), plan=plan), any_structure(rng)
    return identity, structure, render(identity, structure, "blue")


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float()[None] / 255


@pytest.mark.parametrize("plan", PLANS)
def test_the_pose_of_a_render_is_found_again(plan):
    identity, structure, picture = drawn(plan, 5)
    found = nearest_poses(picture.image[None].astype(np.float32) / 255, identity, ["blue"])[0].structure
    view, _ = changes(identity, structure, found)
    assert view < 10
    assert abs(found.head_yaw - structure.head_yaw) < 12
    assert abs(found.scale - structure.scale) < 0.04
    for limb in visible_limbs(identity, structure) & {"raise_left", "raise_right"}:
        assert abs(getattr(found, limb) - getattr(structure, limb)) < 20, limb


def test_a_true_picture_is_clean_and_a_damaged_one_is_not(backbone):
    identity, structure, picture = drawn("bear", 8)
    repainted = replace(identity, primary="teal" if identity.primary != "teal" else "orange")
    erased = picture.image.copy()
    erased[:, 64:] = picture.image[4, 4]
    pictures = torch.cat(
        [
            tensor(picture.image),
            tensor(render(repainted, structure, "blue").image),
            tensor(erased),
            scrambled(np.random.default_rng(0), picture)[None],
        ]
    )
    truths = truth_of(pictures, [identity] * 4, ["blue"] * 4, [structure] * 4, backbone)
    assert [truth.is_clean for truth in truths] == [True, False, False, False]
    assert truths[0].pixel_error < 0.05 < truths[1].pixel_error


def test_the_change_of_pose_is_measured_from_the_reference(backbone):
    identity, structure, picture = drawn("robot", 3)
    turned = replace(
        structure, azimuth=structure.azimuth - 40 if structure.azimuth > 0 else structure.azimuth + 40
    )
    (truth,) = truth_of(tensor(picture.image), [identity], ["blue"], [turned], backbone)
    assert truth.view_change_deg == pytest.approx(40, abs=6)
    (still,) = truth_of(tensor(picture.image), [identity], ["blue"], [structure], backbone)
    assert still.view_change_deg < 6 and still.pose_change_deg < truth.pose_change_deg


def test_a_limb_behind_the_body_has_no_say():
    identity, structure, _ = drawn("fox", 1)
    side = replace(structure, azimuth=80.0, raise_left=0.0, raise_right=0.0, head_yaw=0.0)
    hidden = {"raise_left", "raise_right"} - visible_limbs(identity, side)
    assert len(hidden) == 1
    moved = replace(side, **{hidden.pop(): 20.0})
    assert changes(identity, side, moved)[1] == pytest.approx(0, abs=1e-6)


def test_the_pocket_world_tells_the_truth_of_its_references_and_others_do_not(backbone):
    references = PocketReferences(split="held_out", count=2)
    some = first_prompts(references, 1)
    world = known_world(some)
    assert world is references
    view = references.view(0)
    pair = references.pairs[0]
    picture = references.load(pair.reference_id, 128).image[None]
    asked = replace(pair, prompt=pair.prompt.rsplit(" on a ", 1)[0] + f" on a {view.background} floor")
    (truth,) = world.truths(picture, [asked])
    assert truth.is_clean and truth.pose_change_deg < 6


def test_a_picture_of_another_shape_is_refused():
    identity, _, picture = drawn("duck", 0)
    with pytest.raises(ValueError, match="multiple of 64"):
        nearest_poses(picture.image[None, :100].astype(np.float32), identity, ["blue"])
    assert shrink(picture.image[None].astype(np.float32) / 255, 32).shape == (1, 32, 32, 3)


def test_pictures_searched_together_are_found_as_alone():
    identity, _, _ = drawn("fox", 5)
    rng = np.random.default_rng(1)
    floors = ["blue", "pink", "blue"]
    structures = [any_structure(rng) for _ in floors]
    pictures = np.stack(
        [
            render(identity, one, floor).image.astype(np.float32) / 255
            for one, floor in zip(structures, floors, strict=True)
        ]
    )
    together = nearest_poses(pictures, identity, floors, starts=structures[::-1])
    for number, one in enumerate(together):
        alone = nearest_poses(
            pictures[number, None], identity, [floors[number]], starts=[structures[2 - number]]
        )
        assert one.structure.azimuth == pytest.approx(alone[0].structure.azimuth, abs=2)
        assert one.distance == pytest.approx(alone[0].distance, abs=2e-3)


def test_errors_inside_and_outside_the_outline_are_kept_apart_worked_by_hand():
    """The figure off by .2 on every channel, the floor by .1 on one of three: roots of .04 and of .01 / 3."""
    rng = np.random.default_rng(5)
    drawn = render(sample_identity(rng, held_out=True), any_structure(rng), "blue")
    picture = drawn.image.astype(np.float32) / 255
    picture[drawn.mask] += 0.2
    picture[~drawn.mask, 0] -= 0.1
    assert pixel_errors(picture, drawn) == pytest.approx((0.2, (0.01 / 3) ** 0.5), abs=1e-4)
