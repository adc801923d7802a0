"""The reward's heads: pairs whose truth is exact, losses that ask what is meant, weights that tell figures apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.calibrate import Grid, area_under_curve, calibrate
from divrl_core.evaluation.calibration_cases import pocket_cases
from divrl_core.models.features.base import load_backbone
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.features.lite0_heads import (
    CALIBRATED,
    HEADS_FILE,
    CorrespondenceHeads,
    PocketBackbone,
    head_inputs,
    unpacked,
)
from divrl_core.pocket.head_pairs import HeadPairs, draw_pair, draw_shards
from divrl_core.pocket.train_heads import HeadRecipe, fit, head_losses, see, train_heads

GRID, PACKED = 24, 12


@pytest.fixture(scope="module")
def pairs() -> HeadPairs:
    drawn = [draw_pair(np.random.default_rng([5, 0, index]), grid=GRID) for index in range(24)]
    return HeadPairs(**{name: torch.from_numpy(np.stack([one[name] for one in drawn])) for name in drawn[0]})


@pytest.fixture(scope="module")
def network():
    return Lite0Backbone.load().network


def test_a_cells_matches_are_shares_of_it_and_lie_on_both_figures(pairs):
    assert pairs.match_share.min() >= 0 and (pairs.match_share.diff(dim=-1) <= 0).all(), "the most first"
    found = pairs.match_share.sum(-1)
    assert (found - pairs.figure_share).max() < 0.3, "only figure has matches, but for a pixel at its edge"
    on_object = pairs.object_share.gather(1, pairs.match_cell.flatten(1)).view_as(pairs.match_share)
    assert (on_object[pairs.match_share > 0.1] > 0).all()
    assert (found > 0.5).sum(-1).min() >= 5, "every pair shows something of the same"


def test_a_figure_that_stays_is_found_where_it_is(monkeypatch):
    monkeypatch.setattr("divrl_core.pocket.head_pairs._another", lambda rng, stance: stance)
    drawn = draw_pair(np.random.default_rng(4), grid=GRID)
    inside = drawn["figure_share"] == 1
    assert inside.sum() > 20
    assert (drawn["match_cell"][:, 0] == np.arange(GRID * GRID))[inside].mean() > 0.9


def test_changes_are_known_cell_by_cell(pairs):
    on_figure = pairs.figure_share > 0
    assert (pairs.changed.isnan() == ~on_figure).all()
    largest = torch.nan_to_num(pairs.changed).amax(-1)
    assert (largest == 0).any() and (largest > 0.1).any(), "some pictures are whole, some are not"


def test_a_pair_is_a_pure_function_of_its_seed():
    first, second, other = (draw_pair(np.random.default_rng(seed), grid=GRID) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)
    assert not np.array_equal(first["references"], other["references"])


def test_shards_are_drawn_once(tmp_path):
    first = list(draw_shards(tmp_path, 2, grid=GRID, seed=3, workers=1, pairs=2))
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = list(draw_shards(tmp_path, 2, grid=GRID, seed=3, workers=1, pairs=2))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.pictures, other.pictures)


def test_inputs_keep_colour_where_it_is(network):
    picture = torch.full((1, 3, 128, 128), 0.5)
    picture[:, :, 64:, 64:] = torch.tensor([0.8, 0.1, 0.1])[:, None, None]
    inputs = head_inputs(network, picture, 192)
    assert inputs.shape == (1, 320, PACKED, PACKED)
    coarse, s8, colour = unpacked(inputs)
    assert torch.equal(coarse, inputs[:, :112]) and s8.shape == (1, 40, GRID, GRID)
    assert torch.allclose(
        s8.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)), sum(inputs[:, 112:272].chunk(4, 1)) / 4, atol=1e-5
    )
    reddish = colour[0, 1::3]  # OKLab's a, of a cell's four blocks
    assert reddish[:, 13:, 13:].min() > 0.1 and reddish[:, :11].abs().max() < 0.02


def test_perfect_features_have_no_loss_and_others_have(pairs):
    """One-hot semantic features at the true matches, and visual ones that agree just where nothing changed."""

    class Fixed(torch.nn.Module):
        def __init__(self, semantic, visual):
            super().__init__()
            self.features = (semantic, visual)

        def forward(self, inputs):
            return self.features

    # the pair with most of its figure changed, but not all of it
    asked = (pairs.match_share[..., 0] > 0.05) & (pairs.figure_share > 0.3)
    is_changed = torch.nan_to_num(pairs.changed) > 0.03
    counts = torch.minimum((asked & is_changed).sum(-1), (asked & ~is_changed).sum(-1))
    number = int(counts.argmax())
    assert counts[number] >= 5
    one = HeadPairs(*(values[number : number + 1] for values in vars(pairs).values()))
    cells = GRID * GRID
    key = torch.eye(cells)[None]
    matched = one.match_share[..., 0] > 0.05
    query = torch.eye(cells)[one.match_cell[..., 0]] * matched[..., None] + 1e-6
    look, value = torch.ones(1, cells, 2), torch.ones(1, cells, 2)
    look[is_changed[number : number + 1]] = torch.tensor([-1.0, 1.0])

    def grid(features):
        return features.mT.reshape(1, -1, GRID, GRID)

    def losses(query, look, key=key):
        heads = Fixed(torch.cat([grid(key), grid(query)]), torch.cat([grid(value), grid(look)]))
        nothing = torch.zeros(1, 1)
        return [float(loss) for loss in head_losses(heads, nothing, nothing, one, HeadRecipe())]

    right = losses(query, look)
    assert right[0] < 0.7 * losses(query.roll(5, dims=1), look)[0], "found elsewhere"
    assert right[1] < 0.1 < losses(query, torch.ones_like(look))[1], "blind to changes"
    rival = key.clone()
    rival[0, one.object_share[0] == 0] = key[0, one.match_cell[0, matched[0], 0][0]]
    assert losses(query, look, rival) == pytest.approx(right, abs=1e-4), (
        "cells outside the object find nothing"
    )


def test_training_lowers_both_losses_and_repeats_itself(pairs, network):
    recipe = HeadRecipe(steps=25, batch_size=8, warmup_steps=5, coded_share=0.5, report_every_steps=5)
    trips = []

    def round_trip(images):
        trips.append(len(images))
        return images

    seen = [see(network, round_trip, pairs, recipe, seed=0)]
    assert 0 < sum(trips) < len(pairs.pictures)

    def losses(heads):
        inputs = (seen[0].references.float(), seen[0].pictures.float())
        with torch.no_grad():
            return [float(loss) for loss in head_losses(heads, *inputs, pairs, recipe)]

    untrained = fit(seen, replace(recipe, steps=1, lr=1e-9), seed=1, report=lambda message: None)
    told: list[str] = []
    trained = fit(seen, recipe, seed=1, report=told.append)
    again = fit(seen, recipe, seed=1, report=lambda message: None)
    assert len(told) == 5 and all(
        torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True)
    )
    assert all(after < 0.9 * before for after, before in zip(losses(trained), losses(untrained), strict=True))


def test_trained_heads_are_a_file_that_the_backbone_reads(tmp_path):
    recipe = HeadRecipe(
        shards=2, pairs_per_shard=3, steps=2, batch_size=4, warmup_steps=1, report_every_steps=1
    )
    told: list[str] = []
    path = train_heads(tmp_path / "heads", recipe=recipe, report=told.append)
    assert (
        path == tmp_path / "heads" / "model.safetensors" and len(list((path.parent / "pairs").iterdir())) == 2
    )
    assert [line.split(":")[0] for line in told[-2:]] == ["heads 1 of 2", "heads 2 of 2"]
    features = PocketBackbone.load(heads=path).extract(torch.rand(2, 3, 128, 128))
    assert features.semantic.shape == (2, 64, GRID, GRID) and features.structure.shape == (2, 112, GRID, GRID)
    assert torch.isfinite(features.semantic).all() and torch.isfinite(features.visual[0].values).all()


def test_the_shipped_heads_tell_figures_apart_and_forgive_another_view():
    backbone = load_backbone(BackboneConfig(name="pocket"))
    assert isinstance(backbone, PocketBackbone) and "correspondences" in backbone.source
    score = backbone.settings.score
    grid = Grid(
        image_size_px=(backbone.settings.image_size_px,), tau_s=(score.tau_s,), tau_v=(score.tau_v,),
        agreement=(score.agreement,), colour_scale=(1.0,), weight_s8=(0.0,),
    )  # fmt: skip
    (row,) = calibrate(backbone, pocket_cases(24, seed=17, held_out=True), grid)
    bars = {"other palette": 0.97, "hue turned": 0.97, "other subject": 0.9, "other pattern": 0.7}
    for other, bar in bars.items():
        assert area_under_curve(row.scores["other view"], row.scores[other]) >= bar, other
    assert row.kept_share["scrambled"] < 0.1 < 0.3 < row.kept_share["other view"], "parts without their place"
    assert row.vsm["other view"] > backbone.settings.gate > row.vsm["other palette"]


def test_the_shipped_heads_are_small_and_whole():
    weights = load_file(HEADS_FILE)
    assert HEADS_FILE.stat().st_size < 1_000_000
    assert set(weights) == set(CorrespondenceHeads().state_dict())


def test_missing_heads_are_named_with_the_command_that_makes_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="divrl-train pocket heads"):
        PocketBackbone.load(heads=tmp_path / "model.safetensors")


def test_a_side_that_is_no_multiple_of_a_cell_is_refused():
    with pytest.raises(ValueError, match="pocket: image_size_px must be a multiple of 16, got 100"):
        PocketBackbone.load(BackboneConfig(name="pocket", image_size_px=100))


def test_users_settings_are_laid_over_the_calibrated_ones():
    backbone = PocketBackbone.load(BackboneConfig(name="pocket", tau_v=0.7))
    assert backbone.settings.score == replace(CALIBRATED.score, tau_v=0.7)
