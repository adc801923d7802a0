"""Both measures from features: laws of the scores, and the numbers of a tiny example."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from divrl_core.rewards import measures as measures_module
from divrl_core.rewards.features import FeatureBatch, VisualFeature
from divrl_core.rewards.score import (
    ScoreSettings,
    match_cells,
    reference_features,
    score_images,
    visual_similarity,
)

SETTINGS = ScoreSettings(tau_s=0.5, tau_v=0.5, agreement="match")


def features(batch: int, *, grid: int = 6, seed: int = 0) -> FeatureBatch:
    draw = torch.Generator().manual_seed(seed)

    def values(channels: int) -> Tensor:
        return torch.randn(batch, channels, grid, grid, generator=draw)

    return FeatureBatch(
        semantic=values(32),
        structure=values(16),
        visual=(
            VisualFeature(name="colour", values=values(3), kernel="exponential", scale=0.5, weight=0.75),
            VisualFeature(name="fine", values=values(8), weight=0.25),
        ),
    )


def object_mask(size: int = 48) -> Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = True
    return mask


def test_a_picture_against_itself_has_structure_0_and_identity_1() -> None:
    seen = features(3)
    reference = reference_features(seen.select(slice(1, 2)), object_mask(), SETTINGS)
    scores = score_images(seen, reference, SETTINGS)
    assert scores.nssm[1].item() == pytest.approx(0, abs=1e-6)
    assert scores.vsm[1].item() == 1.0
    assert scores.kept_count[1].item() == int(reference.mask.sum())
    assert scores.nssm[0] > 0.5


def test_scores_do_not_depend_on_the_pictures_beside_them() -> None:
    seen = features(4)
    reference = reference_features(features(1, seed=9), object_mask(), ScoreSettings(tau_s=0.1, tau_v=0.1))
    together = score_images(seen, reference, ScoreSettings(tau_s=0.1, tau_v=0.1))
    for index in range(4):
        alone = score_images(
            seen.select(slice(index, index + 1)), reference, ScoreSettings(tau_s=0.1, tau_v=0.1)
        )
        assert torch.allclose(alone.nssm, together.nssm[index], atol=1e-5)
        assert torch.equal(alone.vsm[0], together.vsm[index])


def test_a_large_grid_scored_in_chunks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, settings = features(5), ScoreSettings(tau_s=0.1, tau_v=0.1)
    reference = reference_features(features(1, seed=9), object_mask(), settings)
    whole = score_images(seen, reference, settings)
    monkeypatch.setattr(measures_module, "CHUNK_ELEMENTS", 2 * 36 * len(reference.semantic))
    chunked = score_images(seen, reference, settings)
    assert torch.equal(whole.vsm, chunked.vsm) and torch.equal(whole.kept_count, chunked.kept_count)


def test_nothing_matched_is_undefined_and_not_zero() -> None:
    seen = features(2)
    settings = replace(SETTINGS, tau_s=0.999)
    reference = reference_features(features(1, seed=9), object_mask(), settings)
    scores = score_images(seen, reference, settings)
    assert scores.vsm.isnan().all() and (scores.kept_count == 0).all()
    assert not scores.nssm.isnan().any()


def test_recolouring_the_object_lowers_identity_and_leaves_structure() -> None:
    seen = features(1)
    reference = reference_features(seen, object_mask(), SETTINGS)
    colour, fine = seen.visual
    recoloured = replace(seen, visual=(replace(colour, values=colour.values + 9), replace(fine, weight=0.25)))
    before, after = (score_images(one, reference, SETTINGS) for one in (seen, recoloured))
    assert torch.equal(before.nssm, after.nssm)
    assert (before.vsm.item(), after.vsm.item()) == (1.0, 0.0)


def test_cells_outside_the_mask_of_the_reference_are_no_targets() -> None:
    seen = features(1)
    changed = replace(seen, semantic=seen.semantic.clone(), structure=seen.structure.clone())
    changed.semantic[..., 0, :], changed.structure[..., 0, :] = 7.0, -3.0
    first, second = (reference_features(one, object_mask(), SETTINGS) for one in (seen, changed))
    generated = features(2, seed=4)
    settings = ScoreSettings(tau_s=0.1, tau_v=0.1)
    for measure in ("nssm", "vsm"):
        before, after = (getattr(score_images(generated, one, settings), measure) for one in (first, second))
        assert torch.equal(before, after)


def test_only_the_generated_mask_gives_sources() -> None:
    seen = features(1)
    reference = reference_features(seen, None, SETTINGS)
    upper = torch.zeros(1, 48, 48, dtype=torch.bool)
    upper[:, :24] = True
    assert score_images(seen, reference, SETTINGS).kept_count.item() == 36
    assert score_images(seen, reference, SETTINGS, generated_mask=upper).kept_count.item() == 18


def test_a_match_counts_the_cells_of_the_object_in_order() -> None:
    seen = features(1)
    reference = reference_features(seen, object_mask(), SETTINGS)
    matched = match_cells(seen, reference, SETTINGS)
    cells = reference.mask.flatten().nonzero()[:, 0]
    assert torch.equal(matched.match[0, cells], torch.arange(len(cells)))
    assert torch.equal(matched.kept[0].nonzero()[:, 0], cells)


def test_visual_similarity_is_the_mean_by_weight() -> None:
    # Colours 1 apart with scale 2: exp(-1/2) = .60653; vectors (1, 0) and (3, 4): cosine .6.
    # With weights 3 and 1: (3 * .60653 + .6) / 4 = .60490.
    def visual(colour: float, fine: tuple[float, float], *, as_cells: bool) -> tuple[VisualFeature, ...]:
        values = torch.tensor([[colour]]), torch.tensor([fine])
        first, second = values if as_cells else (value[..., None, None] for value in values)
        return (
            VisualFeature(name="colour", values=first, kernel="exponential", scale=2.0, weight=3.0),
            VisualFeature(name="fine", values=second, weight=1.0),
        )

    similarity = visual_similarity(
        visual(5.0, (1.0, 0.0), as_cells=False), visual(4.0, (3.0, 4.0), as_cells=True)
    )
    assert similarity.shape == (1, 1, 1)
    assert similarity.item() == pytest.approx(0.60490, abs=1e-5)


def test_a_mask_that_vanishes_on_the_grid_is_refused_by_name() -> None:
    speck = torch.zeros(48, 48, dtype=torch.bool)
    speck[10:13, 10:13] = True
    with pytest.raises(ValueError, match=r"fox-01: the mask covers 0 of the 6 x 6 cells .* at least 3"):
        reference_features(features(1), speck, SETTINGS, name="fox-01")


def test_pooling_counts_the_mask_on_the_pooled_grid() -> None:
    pooled = replace(SETTINGS, nssm_pool=2)
    seen = features(1, grid=8)
    reference = reference_features(seen, object_mask(), pooled)
    assert reference.mask.shape == (8, 8) and int(reference.mask.sum()) == 16
    corner = torch.zeros(48, 48, dtype=torch.bool)
    corner[:12, :12] = True  # four cells of 8 x 8, one of 4 x 4
    assert int(reference_features(seen, corner, SETTINGS).mask.sum()) == 4
    with pytest.raises(ValueError, match="covers 1 of the 4 x 4 cells"):
        reference_features(seen, corner, pooled)


def test_features_of_another_backbone_are_refused() -> None:
    reference = reference_features(features(1), object_mask(), SETTINGS)
    seen = features(1)
    renamed = replace(seen, visual=tuple(replace(one, name=one.name + "2") for one in seen.visual))
    with pytest.raises(ValueError, match=r"expected \['colour', 'fine'\], got \['colour2', 'fine2'\]"):
        score_images(renamed, reference, SETTINGS)
    with pytest.raises(ValueError, match="generated features must match"):
        score_images(features(1, grid=8), reference, SETTINGS)


def test_a_feature_on_another_grid_is_refused_when_the_batch_is_made() -> None:
    seen = features(1)
    with pytest.raises(
        ValueError, match=r"'structure' must share the semantic grid: expected \(1, C, 6, 6\)"
    ):
        replace(seen, structure=torch.zeros(1, 16, 3, 3))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="tau_s must be at least -1 and below 1, got 1"):
        ScoreSettings(tau_s=1.0)
    with pytest.raises(ValueError, match="nssm_pool must be at least 1 cell, got 0"):
        ScoreSettings(nssm_pool=0)
