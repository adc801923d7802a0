"""Sets whose members differ: distances against the definition, max-min against every set."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from divrl_core.rewards.nssm import nssm, reference_structure
from divrl_core.selection.diverse import set_spread, spread_set, structural_distances


def random_distances(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances of random points in a plane, and to one more point, the reference."""
    points = torch.rand(count + 1, 2, generator=torch.Generator().manual_seed(seed))
    distances = torch.cdist(points, points)
    return distances[1:, 1:], distances[0, 1:]


def test_distances_are_nssm_between_any_two_pictures() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, 5, 5, generator=generator)
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[1:4, 1:5] = True
    distances = structural_distances(features, mask)
    assert torch.equal(distances.diagonal(), torch.zeros(4))
    assert torch.equal(distances, distances.T)
    for row in range(4):
        for column in range(4):
            if row != column:
                expected = nssm(features[row : row + 1], reference_structure(features[column], mask))[0]
                assert float(distances[row, column]) == pytest.approx(float(expected), abs=1e-5)


def test_a_flat_picture_has_undefined_distances() -> None:
    features = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    features[1] = 1.0
    distances = structural_distances(features, torch.ones(4, 4, dtype=torch.bool))
    assert torch.isnan(distances[0, 1])


@pytest.mark.parametrize("seed", range(20))
def test_max_min_is_at_least_half_of_the_best_set_there_is(seed: int) -> None:
    # greedy max-min is a 2-approximation in a metric space; swaps only make it better
    distances, from_reference = random_distances(9, seed)
    chosen = spread_set(distances, from_reference, 3)
    best = max(
        set_spread(list(members), distances, from_reference)[0] for members in combinations(range(9), 3)
    )
    found = set_spread(chosen, distances, from_reference)[0]
    assert len(set(chosen)) == 3
    assert found >= best / 2
    # and no single swap makes it better
    for place in range(3):
        for new in set(range(9)) - set(chosen):
            swapped = [*chosen[:place], new, *chosen[place + 1 :]]
            assert set_spread(swapped, distances, from_reference) <= set_spread(
                chosen, distances, from_reference
            )


def test_swaps_repair_what_greed_missed() -> None:
    # on a line: reference at 0, pictures at 4, 7, 10. Greed takes 10 first, then 4 (6 away, 4 from the reference);
    # with 6 in place of 4 the least distance is 4 as well, so here greed is already best
    positions = torch.tensor([4.0, 7.0, 10.0])
    distances = (positions[:, None] - positions[None, :]).abs()
    assert sorted(spread_set(distances, positions, 2)) == [0, 2]


def test_copies_of_one_new_pose_are_not_taken_twice() -> None:
    # pictures 0 and 1 are the same picture, farthest from the reference; 2 is another, nearer one
    distances = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.0, 0.5], [0.5, 0.5, 0.0]])
    from_reference = torch.tensor([0.9, 0.9, 0.4])
    assert 2 in spread_set(distances, from_reference, 2)


def test_undefined_distances_and_impossible_counts_are_refused() -> None:
    distances, from_reference = random_distances(3, 0)
    with pytest.raises(ValueError, match=r"count must lie in 1\.\.3, got 4"):
        spread_set(distances, from_reference, 4)
    distances[0, 1] = torch.nan
    with pytest.raises(ValueError, match="must be defined"):
        spread_set(distances, from_reference, 2)
