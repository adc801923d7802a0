"""Patch tokens as features: the grid is found, class and register tokens are left out, other models are refused."""

from __future__ import annotations

import pytest
import torch

from divrl_core.models.features.patches import patch_features, patch_grid, patch_settings
from divrl_core.rewards.score import reference_features, score_images


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(257, (16, 1)), (729, (27, 0)), (1370, (37, 1)), (201, (14, 5)), (16, (4, 0))],
    ids=["CLIP-L", "SigLIP 384", "DINOv2 518", "DINOv3 224", "smallest"],
)
def test_the_grid_of_known_models_is_found(tokens: int, expected: tuple[int, int]) -> None:
    assert patch_grid(tokens, "a model") == expected


@pytest.mark.parametrize("tokens", [1, 10, 15, 270])
def test_a_model_without_a_grid_is_refused_in_words(tokens: int) -> None:
    with pytest.raises(ValueError, match="some model has no dense features"):
        patch_grid(tokens, "some model")


def test_cells_are_the_last_tokens_row_by_row() -> None:
    tokens = torch.arange(2 * 17 * 3, dtype=torch.float32).reshape(2, 17, 3)
    features = patch_features(tokens, torch.rand(2, 3, 32, 32), colour_scale=0.1, name="x")
    assert features.grid == (4, 4)
    assert torch.equal(features.semantic[1, :, 2, 3], tokens[1, 1 + 2 * 4 + 3])
    assert torch.equal(features.structure, features.semantic)


def test_colour_is_that_of_the_cell_s_place() -> None:
    images = torch.zeros(1, 3, 64, 64)
    images[:, 0, :32, :32] = 1.0  # the upper left quarter is red
    features = patch_features(torch.randn(1, 16, 8), images, colour_scale=0.1, name="x")
    colour = features.visual[1].values[0]
    assert (colour[1, :2, :2] > 0.2).all()
    assert colour[1, 3, 3].abs() < 1e-3


def test_the_same_picture_scores_as_itself() -> None:
    tokens = torch.randn(1, 257, 32, generator=torch.Generator().manual_seed(0))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    settings = patch_settings(224)
    features = patch_features(tokens, images, colour_scale=settings.colour_scale, name="x")
    scores = score_images(features, reference_features(features, None, settings.score), settings.score)
    assert float(scores.nssm) == pytest.approx(0.0, abs=1e-5)
    assert float(scores.vsm) == 1.0


def test_tokens_of_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected tokens \(2, T, C\)"):
        patch_features(torch.randn(1, 16, 8), torch.rand(2, 3, 8, 8), colour_scale=0.1, name="x")
