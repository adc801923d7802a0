"""Artefacts inside the mask: what is done to the subject is seen, what is done outside of it is not."""

from __future__ import annotations

import math

import pytest
import torch
from PIL import Image
from torch import Tensor

from divrl_core.evaluation.metrics.artefacts import ArtefactScorer, artefacts, inner, surface
from divrl_core.evaluation.metrics.base import Subject
from divrl_core.evaluation.metrics.shown import batches
from tests.evaluation.metrics.subjects import middle, noise, shot, subject


def as_picture(image: Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8).numpy())


def as_tensor(picture: Image.Image) -> Tensor:
    return next(batches([shot(picture)])).images[0]


def changes(
    picture: Image.Image, mask: Tensor | None = None, reference: Subject | None = None
) -> dict[str, float]:
    scorer = ArtefactScorer()
    of = reference or subject()
    found = scorer.score([shot(picture, mask=middle() if mask is None else mask)], scorer.prepare(of))
    return {name: float(values[0]) for name, values in found.items()}


def test_detail_of_a_chequerboard_by_hand() -> None:
    board = (torch.arange(8)[:, None] + torch.arange(8)) % 2
    image = board.float().expand(1, 3, 8, 8)
    found = surface(image, torch.ones(1, 8, 8, dtype=torch.bool))
    # 3 x 3 blocks hold 5 pixels of the middle's colour and 4 of the other: 1 - 5/9 = 0 - -4/9, squared 16/81
    assert found.detail.item() == pytest.approx(16 / 81, abs=1e-6)
    assert found.chroma.item() == pytest.approx(0, abs=1e-4)
    assert found.clipped.item() == 1 and found.size.item() == 1


def test_the_rim_of_a_mask_and_of_the_picture_has_no_say_in_detail() -> None:
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, :4, 1:5] = True
    assert inner(mask)[0].nonzero().tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]


def test_twice_the_amplitude_is_two_doublings_of_detail_and_half_the_subject_is_one_of_size() -> None:
    image = as_tensor(noise(0, cells=32))[None] * 0.4 + 0.3
    mask = middle()[None]
    mean = image.mean(dim=(2, 3), keepdim=True)
    half = mask.clone()
    half[:, :, 32:] = False
    found = artefacts(surface(mean + 2 * (image - mean), half), surface(image, half))
    assert found["detail_change"].item() == pytest.approx(2, abs=1e-5)
    assert artefacts(surface(image, half), surface(image, mask))["size_change"].item() == -1


def test_the_reference_itself_shows_no_artefact() -> None:
    assert all(value == pytest.approx(0, abs=1e-9) for value in changes(noise(0)).values())


def test_speckles_on_the_subject_are_seen_and_beside_it_are_not() -> None:
    image, rough = as_tensor(noise(0)), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    grainy = (image + 0.2 * (rough - 0.5)).clamp(0, 1)
    assert changes(as_picture(torch.where(middle(), grainy, image)))["detail_change"] > 1
    beside = changes(as_picture(torch.where(middle(), image, grainy)))
    assert all(value == pytest.approx(0, abs=1e-9) for value in beside.values())


def test_gaudy_burnt_and_smoothed_subjects_are_told_apart() -> None:
    image = as_tensor(noise(0))
    grey = image.mean(dim=0, keepdim=True)
    gaudy, smooth = (grey + 1.6 * (image - grey)).clamp(0, 1), torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    assert changes(as_picture(gaudy))["saturation_change"] > 0.3
    assert changes(as_picture(smooth))["detail_change"] < -0.5
    assert changes(as_picture((image * 3 - 1).clamp(0, 1)))["clipped_change"] > 0.2


def test_what_has_nothing_to_be_compared_with_is_undefined() -> None:
    flat = Image.new("RGB", (64, 64), (128, 128, 128))
    of = Subject(reference_id="wall", picture=flat, mask=middle())
    found = changes(noise(1), reference=of)
    assert math.isnan(found["detail_change"]) and math.isnan(found["saturation_change"])
    assert found["size_change"] == 0
    tiny = torch.zeros(64, 64, dtype=torch.bool)
    tiny[:2, :2] = True
    assert math.isnan(changes(noise(1), mask=tiny)["detail_change"])
    assert math.isnan(changes(noise(1), mask=torch.zeros_like(tiny))["size_change"])


def test_without_masks_nothing_is_said() -> None:
    scorer = ArtefactScorer()
    prepared = scorer.prepare(subject())
    assert scorer.score([shot(noise(1))], prepared) == {}
    both = scorer.score([shot(noise(1)), shot(noise(1), mask=middle())], prepared)
    assert all(math.isnan(values[0]) and not math.isnan(values[1]) for values in both.values())


def test_a_mask_of_another_size_is_refused_with_its_place() -> None:
    scorer = ArtefactScorer()
    with pytest.raises(ValueError, match=r"fox, prompt 3, picture 2: its mask must be bool \(64, 64\)"):
        scorer.score([shot(noise(1), 3, 2, mask=middle(32, 32))], scorer.prepare(subject()))
