"""Feature grids: lengths, pooling, masks and closeness of cells."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rewards.similarity import (
    cosine_matrix,
    exponential_matrix,
    normalise,
    pool_grid,
    resize_mask,
    self_similarity,
    to_cells,
)

LAW = settings(deadline=None, derandomize=True, max_examples=50)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_normalised_vectors_have_length_one_and_zero_stays_zero():
    features = _normal(2, 5, 3, 3)
    features[0, :, 1, 1] = 0
    length = normalise(features, dim=1).norm(dim=1)
    assert length[0, 1, 1].item() == 0
    length[0, 1, 1] = 1
    torch.testing.assert_close(length, torch.ones(2, 3, 3))


def test_normalising_bfloat16_gives_float32_lengths():
    unit = normalise(_normal(7, 5).to(torch.bfloat16), dim=1)
    assert unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(7))


def test_cells_are_listed_row_by_row():
    features = torch.arange(12).reshape(1, 2, 2, 3)
    assert to_cells(features).tolist() == [[[0, 6], [1, 7], [2, 8], [3, 9], [4, 10], [5, 11]]]


def test_pooling_averages_blocks_and_does_not_normalise_again():
    # One block of two opposite pairs of unit vectors: (1,0), (1,0), (0,1), (0,1) -> (.5, .5)
    features = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]]])
    assert pool_grid(features, 2).flatten().tolist() == [0.5, 0.5]
    assert torch.equal(pool_grid(features, 1), features)


def test_a_factor_that_does_not_divide_the_grid_is_refused():
    with pytest.raises(ValueError, match="factor 2 must divide the feature grid, got 7 x 8"):
        pool_grid(torch.zeros(1, 3, 7, 8), 2)
    with pytest.raises(ValueError, match="at least 1"):
        pool_grid(torch.zeros(1, 3, 8, 8), 0)


def test_a_cell_is_inside_from_half_of_its_area():
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, 0] = True  # upper left cell: 2 of 4 pixels
    mask[0, 3] = True  # upper right cell: 1 of 4
    assert resize_mask(mask, (2, 2)).tolist() == [[True, False], [False, False]]
    assert resize_mask(mask, (2, 2), min_coverage=0.25).tolist() == [[True, True], [False, False]]
    assert resize_mask(mask, (2, 2), min_coverage=0.51).sum().item() == 0


def test_coverage_is_exact_where_the_grid_does_not_divide_the_picture():
    # 3 pixels on 2 cells, each 1.5 wide: the middle pixel gives each cell a third; the first two-thirds.
    assert resize_mask(torch.tensor([[True, False, False]]), (1, 2)).tolist() == [[True, False]]
    middle = torch.tensor([[False, True, False]])
    assert resize_mask(middle, (1, 2), min_coverage=0.33).tolist() == [[True, True]]
    assert resize_mask(middle, (1, 2), min_coverage=0.34).tolist() == [[False, False]]


def test_a_mask_may_be_coarser_than_the_grid():
    assert resize_mask(torch.tensor([[True, False]]), (2, 4)).tolist() == [[True, True, False, False]] * 2


@LAW
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    grid_height=st.integers(1, 20),
    grid_width=st.integers(1, 20),
)
def test_full_and_empty_masks_stay_full_and_empty(height: int, width: int, grid_height: int, grid_width: int):
    full = torch.ones(2, height, width, dtype=torch.bool)
    grid = (grid_height, grid_width)
    assert bool(resize_mask(full, grid, min_coverage=1.0).all())
    assert not bool(resize_mask(~full, grid, min_coverage=0.01).any())
    assert resize_mask(full, grid).shape == (2, *grid)


def test_masks_that_are_not_bool_are_refused():
    with pytest.raises(ValueError, match=r"must be bool \(H, W\) or \(B, H, W\), got torch.float32 \(4, 4\)"):
        resize_mask(torch.ones(4, 4), (2, 2))
    with pytest.raises(ValueError, match="min_coverage"):
        resize_mask(torch.ones(4, 4, dtype=torch.bool), (2, 2), min_coverage=0.0)


def test_cosines_equal_torchs_own():
    a, b = _normal(2, 5, 7), _normal(4, 7, seed=1)
    expected = torch.nn.functional.cosine_similarity(a[:, :, None], b[None, None], dim=-1)
    torch.testing.assert_close(cosine_matrix(a, b), expected)


def test_closeness_is_one_for_equal_cells_and_falls_with_distance():
    a = torch.tensor([[[0.3, 0.4, 0.0], [0.0, 0.0, 0.0]]])
    closeness = exponential_matrix(a, torch.zeros(1, 3), scale=0.25)
    # |a_0| = .5: exp(-.5 / .25) = exp(-2)
    assert closeness.flatten().tolist() == pytest.approx([math.exp(-2), 1.0])
    colours = torch.rand(50, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(exponential_matrix(colours[None], colours, 0.1)[0].diagonal(), torch.ones(50))


def test_cells_of_different_width_are_refused():
    with pytest.raises(ValueError, match=r"same C, got \(1, 5, 7\) and \(4, 6\)"):
        cosine_matrix(torch.zeros(1, 5, 7), torch.zeros(4, 6))
    with pytest.raises(ValueError, match="scale must be above 0"):
        exponential_matrix(torch.zeros(1, 5, 3), torch.zeros(4, 3), 0.0)


def test_self_similarity_of_unit_cells_has_a_diagonal_of_ones():
    matrix = self_similarity(normalise(_normal(6, 4), dim=1))
    torch.testing.assert_close(matrix.diagonal(), torch.ones(6))
    torch.testing.assert_close(matrix, matrix.T)
