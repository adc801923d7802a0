"""The pocket world: identity and structure are independent, pictures and correspondences are exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from divrl_core.pocket.correspondences import correspondences
from divrl_core.pocket.figures import (
    BACKGROUNDS,
    PLANS,
    Poses,
    background_of,
    caption,
    sample_identity,
    sample_structure,
)
from divrl_core.pocket.render import render, render_layers
from divrl_core.pocket.solids import FAR, Solid, rotation
from divrl_core.pocket.world import load_shard, render_shard, shard_path, views_of


def figure(plan: str = "fox", seed: int = 3):
    rng = np.random.default_rng(seed)
    identity = replace(sample_identity(rng, held_out=False), plan=plan)
    return identity, sample_structure(rng)


def test_a_ray_meets_a_ball_at_the_distance_worked_by_hand():
    ball = Solid(
        part="ball",
        colour="primary",
        origin=np.array([[0.0, 0.0, 5.0]], dtype=np.float32),
        frame=np.eye(3, dtype=np.float32)[None],
        radii=np.array([2.0, 2.0, 2.0], dtype=np.float32),
    )
    rays = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=np.float32)
    distance, normal = ball.hit(np.zeros(2, dtype=int), np.zeros((2, 3), dtype=np.float32), rays)
    assert distance[0] == pytest.approx(3.0)  # centre 5 away, radius 2
    assert distance[1] == FAR
    assert np.allclose(normal[0], [0, 0, -1], atol=1e-6)


def test_every_hit_on_a_round_cone_lies_on_its_surface():
    """On the surface the distance to the axis point of the touching ball is that ball's radius."""
    r_0, r_1, length = 0.5, 0.2, 1.5
    cone = Solid(
        part="cone",
        colour="primary",
        origin=np.array([[0.1, -0.2, 4.0]], dtype=np.float32),
        frame=(rotation("y", 35) @ rotation("z", 20)).astype(np.float32)[None],
        radii=np.array([r_0, r_1, length], dtype=np.float32),
        kind="cone",
    )
    rng = np.random.default_rng(0)
    rays = np.concatenate([rng.normal(0, 0.15, (4000, 2)), np.ones((4000, 1))], axis=1).astype(np.float32)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    distance, normal = cone.hit(np.zeros(len(rays), dtype=int), np.zeros_like(rays), rays)
    hit = distance < FAR
    assert 500 < hit.sum() < 4000
    local = cone.to_local(rays[hit] * distance[hit][:, None])
    # signed distance to the hull of two balls: the least over the axis of |p - a(s)| - r(s)
    steps = np.linspace(0, 1, 2001)
    gaps = np.full(len(local), np.inf)
    for step in steps:
        centre = np.array([step * length, 0, 0])
        gaps = np.minimum(gaps, np.linalg.norm(local - centre, axis=1) - (r_0 + step * (r_1 - r_0)))
    assert np.abs(gaps).max() < 2e-3
    assert np.allclose(np.linalg.norm(normal[hit], axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_fills_a_fair_share_of_the_frame(plan: str):
    identity, structure = figure(plan)
    drawn = render(identity, structure, "blue")
    assert drawn.image.shape == (128, 128, 3) and drawn.image.dtype == np.uint8
    assert 0.06 < drawn.mask.mean() < 0.5
    assert drawn.image[drawn.mask].std() > 20


def test_poses_drawn_together_are_those_drawn_alone():
    identity, _ = figure("robot")
    structures = [sample_structure(np.random.default_rng(seed)) for seed in range(3)]
    layers = render_layers(identity, Poses.of(structures), size_px=64, oversample=2)
    for picture, structure in zip(layers.over("pink"), structures, strict=True):
        alone = render(identity, structure, "pink", size_px=64).image
        assert np.abs(picture * 255 - alone).max() < 2


def test_a_render_is_a_pure_function_of_its_arguments():
    identity, structure = figure()
    first, again = (render(identity, structure, "pink") for _ in range(2))
    assert np.array_equal(first.image, again.image)


def test_the_background_changes_no_mask_and_no_pixel_well_inside_the_figure():
    identity, structure = figure("bear")
    first, other = render(identity, structure, "blue"), render(identity, structure, "yellow")
    assert np.array_equal(first.mask, other.mask)
    inside = first.mask
    for axis in (0, 1) * 4:  # four pixels in from the edge: the pixel filter mixes three with the floor
        inside = inside & np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    assert inside.sum() > 1000
    assert np.array_equal(first.image[inside], other.image[inside])
    assert not np.array_equal(first.image, other.image)


def test_recolouring_keeps_mask_and_parts():
    identity, structure = figure("duck")
    other = replace(identity, primary="teal" if identity.primary != "teal" else "red")
    first, second = render(identity, structure, "blue"), render(other, structure, "blue")
    assert np.array_equal(first.parts, second.parts)
    assert not np.array_equal(first.image[first.mask], second.image[second.mask])


def test_correspondences_to_the_same_render_are_the_identity():
    identity, structure = figure("elephant")
    drawn = render(identity, structure, "green", oversample=1)
    matches = correspondences(drawn, drawn)
    assert len(matches) > 0.97 * (drawn.parts >= 0).sum()
    assert np.abs(matches[:, :2] - matches[:, 2:]).max() <= 1


def test_correspondences_across_views_carry_surface_points():
    identity, structure = figure("dinosaur")
    turned = replace(
        structure, azimuth=(structure.azimuth + 35) % 360, head_yaw=-structure.head_yaw, swing=20.0
    )
    first, second = render(identity, structure, "blue"), render(identity, turned, "blue")
    matches = correspondences(first, second)
    assert len(matches) > 300
    source = first.local[matches[:, 0], matches[:, 1]]
    target = second.local[matches[:, 2], matches[:, 3]]
    # two pixels that show one surface point differ by less than a pixel's footprint (about 0.025) on most of the figure
    assert np.quantile(np.linalg.norm(source - target, axis=1), 0.9) < 0.08


def test_captions_name_figure_and_floor_but_never_the_pose():
    identity, structure = figure()
    for background in BACKGROUNDS:
        text = caption(replace(identity, pattern="striped"), background)
        assert text == f"a toy fox with a striped body on a {background} floor"
        assert background_of(text) == background
    assert caption(identity, "blue") == caption(identity, "blue")
    assert str(int(structure.azimuth)) not in caption(identity, "blue")


def test_held_out_palettes_never_appear_in_training():
    train = {
        (v.identity.plan, v.identity.primary, v.identity.secondary)
        for i in range(300)
        for v in views_of(i, seed=0, held_out=False)
    }
    held = {
        (v.identity.plan, v.identity.primary, v.identity.secondary)
        for i in range(60)
        for v in views_of(i, seed=0, held_out=True)
    }
    assert train and held and not train & held


def test_near_views_differ_little_and_other_views_much():
    turns_near, turns_far = [], []
    for index in range(200):
        views = views_of(index, seed=1, held_out=False)
        angle = [view.structure.azimuth for view in views]
        turns_near.append(abs(angle[0] - angle[1]))
        turns_far.append(abs(angle[0] - angle[2]))
    assert max(turns_near) <= 5.0001
    assert 43 < np.mean(turns_far) < 55  # 49 for two of three sides, 55 degrees apart


def test_a_shard_comes_back_as_it_was_drawn_and_other_versions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("divrl_core.pocket.world.SHARD_IDENTITIES", 2)
    path = render_shard(0, tmp_path, seed=5, held_out=False)
    assert path == shard_path(tmp_path, 0, held_out=False)
    shard = load_shard(path)
    view = views_of(1, seed=5, held_out=False)[2]
    drawn = render(view.identity, view.structure, view.background)
    assert np.array_equal(shard.images[1, 2], drawn.image)
    assert np.array_equal(shard.masks[1, 2], drawn.mask)
    assert shard.prompts[1][2] == view.prompt
    monkeypatch.setattr("divrl_core.pocket.world.WORLD_VERSION", 99)
    with pytest.raises(ValueError, match="build again"):
        load_shard(path)
