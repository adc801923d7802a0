"""Tokens and position ids: FLUX's own order."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxKontextPipeline
from hypothesis import given
from hypothesis import strategies as st

from divrl_core.models.layout import (
    LAYOUTS,
    canvas,
    grid_ids,
    pack,
    reference_ids,
    text_ids,
    unpack,
    width_ids,
    width_ids_of_several,
)


def test_packing_is_diffusers_packing_on_a_picture_that_is_not_square() -> None:
    latents = torch.randn(2, 16, 6, 10)
    assert torch.equal(pack(latents), FluxKontextPipeline._pack_latents(latents, 2, 16, 6, 10))


def test_unpacking_undoes_packing() -> None:
    latents = torch.randn(2, 16, 6, 10)
    assert torch.equal(unpack(pack(latents), 3, 5), latents)


def test_a_token_is_two_by_two_latents_by_hand() -> None:
    # one channel, 2 x 4: the second token is the right half, read row by row
    latents = torch.arange(8.0).reshape(1, 1, 2, 4)
    assert pack(latents).tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]


def test_ids_are_index_row_column_row_by_row() -> None:
    assert grid_ids(2, 3, index=1).tolist() == [
        [1, 0, 0],
        [1, 0, 1],
        [1, 0, 2],
        [1, 1, 0],
        [1, 1, 1],
        [1, 1, 2],
    ]


def test_ids_are_diffusers_ids() -> None:
    theirs = FluxKontextPipeline._prepare_latent_image_ids(1, 4, 7, "cpu", torch.float32)
    assert torch.equal(grid_ids(4, 7, index=0), theirs)


def test_text_ids_are_zero() -> None:
    assert text_ids(5).shape == (5, 3)
    assert not text_ids(5).any()


# Where the reference lies


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_width_canvas_has_the_ids_of_one_wide_picture_up_to_the_order_of_tokens(
    rows: int, target_columns: int, reference_columns: int
) -> None:
    target, reference = (rows, target_columns), (rows, reference_columns)
    ids = torch.cat([grid_ids(*target), reference_ids("width", reference, target)])
    wide = FluxKontextPipeline._prepare_latent_image_ids(
        1, rows, target_columns + reference_columns, "cpu", torch.float32
    )
    assert sorted(ids.tolist()) == sorted(wide.tolist())


def test_layouts_by_hand() -> None:
    target, reference = (2, 3), (1, 2)
    assert reference_ids("kontext", reference, target).tolist() == [[1, 0, 0], [1, 0, 1]]
    assert reference_ids("width", reference, target).tolist() == [[0, 0, 3], [0, 0, 4]]
    assert reference_ids("diagonal", reference, target).tolist() == [[0, 2, 3], [0, 2, 4]]
    assert reference_ids("none", reference, target).shape == (0, 3)


def test_no_two_tokens_of_a_canvas_share_an_id() -> None:
    for layout in LAYOUTS:
        ids = torch.cat([grid_ids(3, 4), reference_ids(layout, (3, 4), (3, 4))])
        assert len({tuple(row) for row in ids.tolist()}) == 24, layout


def test_an_unknown_layout_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="must be one of kontext, width, diagonal, none, got 'wide'"):
        reference_ids("wide", (1, 1), (1, 1))


def test_the_canvas_marks_the_targets_tokens_and_holds_the_reference_bit_for_bit() -> None:
    target, reference = torch.randn(2, 6, 4), torch.randn(2, 3, 4)
    whole = canvas(target, grid_ids(2, 3), reference, reference_ids("width", (1, 3), (2, 3)))
    assert whole.is_target.tolist() == [True] * 6 + [False] * 3
    assert torch.equal(whole.tokens[:, whole.is_target], target)
    assert torch.equal(whole.tokens[:, ~whole.is_target], reference)
    assert whole.ids.shape == (9, 3)


@given(st.integers(1, 12), st.integers(1, 12))
def test_the_masks_boundary_is_a_token_boundary_for_every_size_accepted(rows: int, columns: int) -> None:
    """Marking tokens and packing a mask of latents drawn beside each other are the same: no token is half and half."""
    drawn = torch.zeros(1, 1, 2 * rows, 2 * columns * 2)
    drawn[..., : 2 * columns] = 1
    flags = pack(drawn)[0]
    assert bool(((flags == 0) | (flags == 1)).all()) and bool((flags == flags[:, :1]).all())
    wide = {tuple(row) for row in grid_ids(rows, 2 * columns)[flags[:, 0] == 1].tolist()}
    whole = canvas(
        torch.zeros(1, rows * columns, 4),
        grid_ids(rows, columns),
        torch.zeros(1, rows * columns, 4),
        reference_ids("width", (rows, columns), (rows, columns)),
    )
    assert {tuple(row) for row in whole.ids[whole.is_target].tolist()} == wide


def test_several_references_lie_side_by_side_to_the_right_of_the_target() -> None:
    ids = width_ids_of_several([(2, 3), (4, 1)], (5, 7))
    assert torch.equal(ids[:6], width_ids((2, 3), (5, 7)))
    assert torch.equal(ids[6:], width_ids((4, 1), (5, 10)))
    assert width_ids_of_several([], (5, 7)).shape == (0, 3)
