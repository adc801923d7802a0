"""nSSM: the laws of the measure, and the closed form against explicit matrices in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divrl_core.rewards.nssm import CONSTANT_BELOW_VARIANCE, nssm, reference_structure

LAW = settings(deadline=None, derandomize=True, max_examples=40)


def nssm_explicit(
    generated: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, pool: int = 1
) -> float:
    """The formula as it stands in the paper, in numpy and float64: (C, h, w) twice, mask on the pooled grid."""
    entries = []
    for features in (generated, reference):
        grid = features.double().numpy()
        grid = grid / np.linalg.norm(grid, axis=0, keepdims=True)
        channels, height, width = grid.shape
        grid = grid.reshape(channels, height // pool, pool, width // pool, pool).mean(axis=(2, 4))
        cells = grid.reshape(channels, -1).T[mask.flatten().numpy()]
        matrix = cells @ cells.T
        entries.append(matrix[~np.eye(len(cells), dtype=bool)])
    first, second = (entry - entry.mean() for entry in entries)
    return 1 - float(first @ second / np.sqrt((first @ first) * (second @ second)))


def variance_of(features: torch.Tensor, mask: torch.Tensor) -> float:
    return reference_structure(features, mask).variance


def disc(height: int, width: int, share: float) -> torch.Tensor:
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    distance = (rows / height).square()[:, None] + (columns / width).square()[None]
    return distance <= distance.flatten().sort().values[max(round(share * height * width), 1) - 1]


def maps(count: int, channels: int, size: int, *, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Float64 features around one common direction; the smaller the spread the more alike all cells are."""
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(1, channels, 1, 1, generator=generator, dtype=torch.float64)
    shared = torch.randn(1, channels, size, size, generator=generator, dtype=torch.float64)
    own = torch.randn(count, channels, size, size, generator=generator, dtype=torch.float64)
    return common + spread * (shared + own)


# The number itself


def test_three_cells_worked_by_hand():
    # Reference: angles 0, 60, 90 degrees: cosines .5 (0-60), 0 (0-90), .8660 (60-90)
    # Generated: angles 0, 90, 60 degrees: 0, .5, .8660. Means .455342 both; deviations
    # (.044658, -.455342, .410684) and (-.455342, .044658, .410684): cov = 2 * -.020335 + .168661 = .127992,
    # var = .001994 + .207336 + .168661 = .377992 -> Pearson .338611
    def directions(*degrees: float) -> torch.Tensor:
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angles.cos(), angles.sin()])[:, None]

    mask = torch.ones(1, 3, dtype=torch.bool)
    score = nssm(directions(0, 90, 60)[None], reference_structure(directions(0, 60, 90), mask))
    assert score.item() == pytest.approx(1 - 0.338611, abs=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("channels", "size"), [(64, 6), (16, 12), (3, 2)])
def test_identical_maps_give_zero(dtype: torch.dtype, channels: int, size: int):
    features = maps(3, channels, size).to(dtype)
    for index in range(3):
        reference = reference_structure(features[index], torch.ones(size, size, dtype=torch.bool))
        assert abs(nssm(features[index : index + 1], reference).item()) <= 1e-6


@pytest.mark.parametrize("spread", [3e-2, 1e-1, 1.0, 30.0])
def test_identical_maps_give_zero_however_alike_their_cells_are(spread: float):
    features = maps(1, 48, 10, spread=spread).float()
    reference = reference_structure(features[0], disc(10, 10, 0.4))
    assert abs(nssm(features, reference).item()) <= 1e-6


def test_a_rotated_feature_space_gives_zero():
    """Only the relations between cells count, not the features themselves."""
    features = maps(1, 8, 6)[0]
    rotation = torch.linalg.qr(
        torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    )[0]
    turned = torch.einsum("dc,chw->dhw", rotation, features)
    reference = reference_structure(features, torch.ones(6, 6, dtype=torch.bool))
    assert abs(nssm(turned[None], reference).item()) <= 1e-10


def test_opposite_relations_give_two():
    # Angles 0, 90, 45: similarities 0, .71, .71. Against 0, ~0, ~90: 1, 0, 0. Perfectly anti-correlated.
    def directions(*degrees: float) -> torch.Tensor:
        angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
        return torch.stack([angles.cos(), angles.sin()])[:, None]

    reference = reference_structure(directions(0, 90, 45), torch.ones(1, 3, dtype=torch.bool))
    assert nssm(directions(0, 0, 90)[None], reference).item() == pytest.approx(2, abs=1e-9)


# Laws


@LAW
@given(
    seed=st.integers(0, 10_000),
    channels=st.integers(2, 40),
    size=st.sampled_from([2, 4, 6, 8]),
    share=st.floats(0.1, 1),
    pool=st.sampled_from([1, 2]),
)
def test_closed_form_equals_explicit_matrices_in_float64(
    seed: int, channels: int, size: int, share: float, pool: int
):
    features = maps(3, channels, size * pool, seed=seed)
    mask = disc(size, size, share)
    reference = reference_structure(features[0], mask, pool=pool)
    scores = nssm(features, reference)
    for index, score in enumerate(scores.tolist()):
        if mask.sum() < 3:
            assert np.isnan(score)
        else:
            assert score == pytest.approx(nssm_explicit(features[index], features[0], mask, pool), abs=1e-10)


@LAW
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_nssm_is_symmetric_bounded_and_ignores_the_length_of_features(seed: int, scale: float):
    first, second = maps(2, 12, 6, seed=seed)
    mask = disc(6, 6, 0.6)
    score = nssm(first[None], reference_structure(second, mask)).item()
    assert 0 <= score <= 2
    assert nssm(second[None], reference_structure(first, mask)).item() == pytest.approx(score, abs=1e-10)
    assert nssm(scale * first[None], reference_structure(second, mask)).item() == pytest.approx(
        score, abs=1e-10
    )


def test_nssm_ignores_cells_outside_the_mask():
    features = maps(2, 12, 6)
    mask = disc(6, 6, 0.5)
    reference = reference_structure(features[0], mask)
    changed = torch.where(mask, features, torch.nan)
    assert torch.equal(nssm(changed, reference), nssm(features, reference))
    assert torch.equal(nssm(features, reference_structure(changed[0], mask)), nssm(features, reference))


def test_a_picture_scores_the_same_alone_and_in_company():
    features = maps(5, 32, 8).float()
    reference = reference_structure(features[0], disc(8, 8, 0.5))
    together = nssm(features, reference)
    for index in range(5):
        assert torch.equal(nssm(features[index : index + 1], reference)[0], together[index])


def test_a_mask_on_the_features_grid_is_pooled_with_them():
    features, mask = maps(2, 12, 8), torch.zeros(8, 8, dtype=torch.bool)
    mask[1:7, 2:8] = True
    pooled = torch.zeros(4, 4, dtype=torch.bool)
    pooled[:, 1:] = True  # rows 1 and 6 fill half of their blocks, which is enough
    by_grid = nssm(features, reference_structure(features[0], mask, pool=2))
    by_pooled = nssm(features, reference_structure(features[0], pooled, pool=2))
    assert torch.equal(by_grid, by_pooled)
    assert by_grid[1].item() == pytest.approx(nssm_explicit(features[1], features[0], pooled, 2), abs=1e-10)


# Precision

ACCURACY_CASES = [(channels, spread) for channels in (24, 160) for spread in (1.0, 0.3, 0.1, 0.03, 0.014)]


@pytest.mark.parametrize(("channels", "spread"), ACCURACY_CASES)
def test_float32_agrees_to_1e_4_above_the_stated_variance(channels: int, spread: float):
    features = maps(4, channels, 12, spread=spread).float()
    mask = disc(12, 12, 0.7)  # 101 cells: more than 24 channels, fewer than 160
    assert variance_of(features[0], mask) > CONSTANT_BELOW_VARIANCE
    scores = nssm(features, reference_structure(features[0], mask))
    assert scores.dtype == torch.float32
    for index, score in enumerate(scores.tolist()):
        assert score == pytest.approx(nssm_explicit(features[index], features[0], mask), abs=1e-4)


@pytest.mark.parametrize(("channels", "spread"), ACCURACY_CASES)
def test_float64_agrees_to_1e_10_above_the_stated_variance(channels: int, spread: float):
    features = maps(4, channels, 12, spread=spread)
    mask = disc(12, 12, 0.7)
    assert variance_of(features[0], mask) > CONSTANT_BELOW_VARIANCE
    scores = nssm(features, reference_structure(features[0], mask))
    for index, score in enumerate(scores.tolist()):
        assert score == pytest.approx(nssm_explicit(features[index], features[0], mask), abs=1e-10)


def test_faint_maps_are_as_good_as_float64_although_they_come_in_float32():
    """A mixed group: only one picture is faint, and it alone needs the finer products."""
    mask = disc(12, 12, 0.7)
    faint, plain = maps(1, 48, 12, spread=0.02).float(), maps(2, 48, 12, seed=1).float()
    assert variance_of(faint[0], mask) < 1e-6 < variance_of(plain[0], mask)
    scores = nssm(torch.cat([faint, plain]), reference_structure(plain[0], mask))
    for score, features in zip(scores.tolist(), [*faint, *plain], strict=True):
        assert score == pytest.approx(nssm_explicit(features, plain[0], mask), abs=1e-6)


# Undefined is not zero


def test_constant_maps_are_undefined():
    constant = torch.ones(1, 8, 5, 5) * torch.arange(1.0, 9.0)[:, None, None]
    varied, mask = maps(1, 8, 5).float(), torch.ones(5, 5, dtype=torch.bool)
    assert nssm(constant, reference_structure(varied[0], mask)).isnan().all()
    assert nssm(varied, reference_structure(constant[0], mask)).isnan().all()
    assert nssm(constant, reference_structure(constant[0], mask)).isnan().all()


def test_maps_below_the_stated_variance_count_as_constant():
    mask = torch.ones(8, 8, dtype=torch.bool)
    features = maps(1, 16, 8, spread=1e-3)
    assert 0 < variance_of(features[0], mask) < CONSTANT_BELOW_VARIANCE
    assert nssm(features, reference_structure(features[0], mask)).isnan().all()


@pytest.mark.parametrize("cells", [0, 1, 2])
def test_fewer_than_three_cells_are_undefined(cells: int):
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask.view(-1)[:cells] = True
    features = maps(2, 8, 5)
    assert nssm(features, reference_structure(features[0], mask)).isnan().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_not_finite_make_only_their_own_picture_undefined(bad: float):
    features = maps(3, 8, 5).float()
    features[1, 2, 2, 2] = bad
    scores = nssm(features, reference_structure(features[0], torch.ones(5, 5, dtype=torch.bool)))
    assert scores.isnan().tolist() == [False, True, False]


def test_no_pictures_give_no_scores():
    features = maps(1, 8, 5)
    assert nssm(features[:0], reference_structure(features[0], disc(5, 5, 1.0))).shape == (0,)


# Errors


def test_grids_that_do_not_fit_are_refused():
    features, mask = maps(2, 8, 6), torch.ones(6, 6, dtype=torch.bool)
    reference = reference_structure(features[0], mask)
    with pytest.raises(ValueError, match=r"expected \(B, 8, 6, 6\), got \(2, 8, 3, 6\)"):
        nssm(features[:, :, :3], reference)
    with pytest.raises(ValueError, match=r"must be \(C, h, w\), got \(2, 8, 6, 6\)"):
        reference_structure(features, mask)
    with pytest.raises(ValueError, match=r"expected bool \(6, 6\).*resize it with resize_mask\(\)"):
        reference_structure(features[0], torch.ones(64, 64, dtype=torch.bool))
    with pytest.raises(ValueError, match="expected bool"):
        reference_structure(features[0], torch.ones(6, 6))
    with pytest.raises(ValueError, match="divide the feature grid 6 x 6, got 4"):
        reference_structure(features[0], mask, pool=4)
