"""Panels: sizes, the target that covers, the reference that is fitted whole."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from divrl_core.models.panels import cover, letterbox, panel_size

SIDES = st.sampled_from([64, 128, 512, 768, 1024])


@given(st.integers(1, 4000), st.integers(1, 4000), SIDES)
def test_every_panel_is_made_of_whole_tokens_and_no_larger_than_asked(
    height: int, width: int, side: int
) -> None:
    rows, columns = panel_size(height, width, side)
    assert rows % 16 == 0 and columns % 16 == 0
    assert 0.75 * side * side <= rows * columns <= side * side
    assert max(rows, columns) <= 2 * min(rows, columns)
    turned = panel_size(width, height, side)
    distances = [
        abs(math.log(r / c) - math.log(h / w))
        for (r, c), (h, w) in (((rows, columns), (height, width)), (turned, (width, height)))
    ]
    assert distances[0] == pytest.approx(distances[1], abs=1e-9)


def test_panel_sizes_by_hand() -> None:
    assert panel_size(300, 300, 128) == (128, 128)
    assert panel_size(1080, 1920, 512) == (384, 672)
    assert panel_size(768, 1024, 1024) == (896, 1152)
    with pytest.raises(ValueError, match="multiple of 16 px, got 100"):
        panel_size(10, 10, 100)


def picture(height: int, width: int) -> torch.Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(height * 1000 + width))


@given(st.integers(4, 60), st.integers(4, 60))
def test_a_letterboxed_picture_is_whole_and_not_stretched(height: int, width: int) -> None:
    """A marked centre and marked edges: all of them are inside, at one scale in both directions."""
    image = torch.zeros(3, height, width)
    image[0] = torch.linspace(0, 1, height)[:, None]
    image[1] = torch.linspace(0, 1, width)[None, :]
    image[2] = 1
    panel = letterbox(image, 64, 96)
    assert panel.shape == (3, 64, 96)
    scale = min(64 / height, 96 / width)
    rows, columns = min(64, max(1, round(height * scale))), min(96, max(1, round(width * scale)))
    top, left = (64 - rows) // 2, (96 - columns) // 2
    inside = panel[:, top : top + rows, left : left + columns]
    # within half a pixel of the source, corners and all
    assert inside[0, 0].max() <= 1 / max(1, height - 1) + 0.15 and inside[0, -1].min() >= 0.85 - 1 / max(
        1, height - 1
    )
    assert abs(rows / height - columns / width) <= 0.5 / height + 0.5 / width + 1e-9


def test_bars_have_the_mean_colour_of_the_edges_they_touch() -> None:
    image = torch.zeros(3, 32, 16)
    image[0, :, 0], image[2, :, -1] = 1.0, 1.0
    panel = letterbox(image, 32, 64)
    assert torch.allclose(panel[:, :, 0], torch.tensor([0.5, 0.0, 0.5])[:, None].expand(3, 32))
    assert torch.equal(panel[:, :, 24:40], image)


def test_a_picture_of_the_panels_size_is_left_bit_for_bit() -> None:
    image = picture(32, 48)
    assert torch.equal(letterbox(image, 32, 48), image) and torch.equal(cover(image, 32, 48), image)


def test_covering_keeps_the_middle() -> None:
    image = torch.zeros(3, 40, 80)
    image[:, :, 40:] = 1
    panel = cover(image, 40, 40)
    assert panel[:, :, :20].max() == 0 and panel[:, :, 20:].min() == 1


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(1, 3, 4, 4)])
def test_what_is_no_picture_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must be \(C, H, W\) in \[0, 1\]"):
        letterbox(image, 16, 16)
