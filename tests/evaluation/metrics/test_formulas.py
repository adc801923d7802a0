"""The formulas that need no network: each a number worked by hand, or a law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from divrl_core.evaluation.metrics.copy_paste import copy_excess, copy_paste
from divrl_core.evaluation.metrics.dino_dense import sdino
from divrl_core.evaluation.metrics.si_iou import SiIouScorer, scale_invariant_iou
from divrl_core.evaluation.metrics.within_set import mean_pairwise, questions_of, set_means
from tests.evaluation.metrics.subjects import middle, noise, shot, subject

NAN = math.nan


def mask(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for cell in row] for row in rows])


# si-IoU


def test_si_iou_by_hand() -> None:
    ell, square = mask("#...", "##..", "...."), mask(".##", ".##")
    # boxes 2 x 2: # . / # # against # # / # #: 3 of 4
    assert scale_invariant_iou(ell, square) == pytest.approx(0.75)
    assert scale_invariant_iou(square, ell) == pytest.approx(0.75)


def test_si_iou_does_not_see_size_or_place() -> None:
    small = mask("......", ".#....", ".##...", "......")
    large = torch.zeros(40, 50, dtype=torch.bool)
    large[3:39, 7:43] = mask("#.", "##").repeat_interleave(18, 0).repeat_interleave(18, 1)
    assert scale_invariant_iou(large, small) == scale_invariant_iou(small, large) == 1.0


def test_si_iou_takes_a_pixel_that_is_half_covered() -> None:
    # 4 columns onto 2: each half of #.## and all of #### is covered by half or more
    assert scale_invariant_iou(mask("#.##", "####"), mask("##", "##")) == 1.0


def test_si_iou_of_an_empty_mask_is_undefined_and_masks_must_be_masks() -> None:
    assert math.isnan(scale_invariant_iou(mask("..", ".."), mask("##", "##")))
    with pytest.raises(
        ValueError, match=r"the generated mask must be bool \(H, W\), got torch.float32 \(2, 2\)"
    ):
        scale_invariant_iou(torch.ones(2, 2), mask("##"))


def test_si_iou_is_left_out_without_masks_and_undefined_of_a_picture_without_one() -> None:
    scorer = SiIouScorer()
    prepared = scorer.prepare(subject())
    assert scorer.score([shot(noise(0))], prepared) == {}
    values = scorer.score([shot(noise(0)), shot(noise(1, 32, 96), mask=middle(32, 96))], prepared)["si_iou"]
    assert math.isnan(values[0]) and values[1] == 1.0


# sDINO


def test_sdino_by_hand() -> None:
    reference = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    generated = torch.tensor([[[3.0, 4.0], [5.0, 0.0], [-1.0, 0.0]]])
    # best cosines: .8 (with the second), 1 (with the first), 0 (with the second)
    assert sdino(generated, reference).item() == pytest.approx(0.6)
    assert sdino(generated, reference, torch.tensor([[True, False, True]])).item() == pytest.approx(0.4)


def test_sdino_without_a_patch_is_undefined_and_looks_only_inside_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    patches, cells = torch.randn(2, 9, 4, generator=generator), torch.randn(3, 4, generator=generator)
    inside = torch.tensor([[True] * 4 + [False] * 5, [False] * 9])
    broken = patches.clone()
    broken[0, 6] = torch.nan
    found = sdino(broken, cells, inside)
    assert found[0] == sdino(patches[:, :4], cells)[0]
    assert math.isnan(found[1])
    assert math.isnan(sdino(broken, cells)[0])


def test_sdino_is_the_double_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    patches, cells = torch.randn(1, 6, 5, generator=generator), torch.randn(4, 5, generator=generator)
    best = [
        max(float(torch.nn.functional.cosine_similarity(one, other, dim=0)) for other in cells.double())
        for one in patches[0].double()
    ]
    assert sdino(patches, cells).item() == pytest.approx(sum(best) / 6, abs=1e-6)


# copy-paste


def test_copy_paste_by_hand() -> None:
    # angles of 60 degrees to the reference, 90 to the view, 60 between these two: (90 - 60) / 60 = .5
    half = torch.tensor([0.5])
    assert copy_paste(half, torch.tensor([[0.0]]), half).item() == pytest.approx(0.5)
    assert copy_excess(torch.tensor([0.9]), half).item() == pytest.approx(0.4)


def test_copy_paste_is_as_multiid_bench_computes_it_and_stays_in_its_range() -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(
        torch.randn(40, 3, 5, generator=generator, dtype=torch.float64), dim=2
    )
    for g, t, r in vectors:
        gr, gt, tr = (torch.dot(a, b) for a, b in ((g, r), (g, t), (t, r)))
        expected = (torch.acos(gt) - torch.acos(gr)) / torch.acos(tr)
        found = copy_paste(gr[None], gt[None, None], tr[None]).item()
        assert found == pytest.approx(float(expected), abs=1e-12) and -1 <= found <= 1


def test_the_reference_itself_is_all_copy_and_the_view_itself_none() -> None:
    between = torch.tensor([0.3])
    assert copy_paste(torch.tensor([1.0]), between[None], between).item() == pytest.approx(1)
    assert copy_paste(between, torch.tensor([[1.0]]), between).item() == pytest.approx(-1)
    assert copy_excess(between, between).item() == 0


def test_of_a_view_that_is_the_reference_nothing_can_be_told_and_of_several_the_mean_is_taken() -> None:
    same, other = torch.tensor([1.0]), torch.tensor([0.5])
    assert math.isnan(copy_paste(other, other[None], same).item())
    both = copy_paste(other, torch.tensor([[0.0, 0.5]]), torch.tensor([0.5, 0.5])).item()
    assert both == pytest.approx((0.5 + 0.0) / 2)
    assert math.isnan(copy_paste(torch.tensor([NAN]), other[None], other).item())


# within the set


def test_the_distance_within_a_set_is_the_mean_over_pairs_without_the_undefined() -> None:
    table = {(0, 1): 1.0, (0, 2): 4.0, (1, 2): NAN}
    assert mean_pairwise([0, 1, 2], lambda a, b: table[a, b]) == 2.5
    assert math.isnan(mean_pairwise([0], lambda a, b: 1.0))


def test_sets_are_those_of_a_question_in_the_order_of_their_first_pictures() -> None:
    shots = [shot(noise(0), number, k) for number, k in ((2, 0), (0, 0), (2, 1), (0, 1), (1, 0))]
    assert questions_of(shots) == [[0, 2], [1, 3], [4]]
    values = set_means(shots, lambda first, second: float(first + second))
    assert values is not None and values[:2].tolist() == [2, 4] and math.isnan(values[2])
    assert set_means(shots[-1:], lambda first, second: 0.0) is None
