"""Tokens and position ids: FLUX's own order."""

from __future__ import annotations

import torch
from diffusers import FluxKontextPipeline

from divrl_core.models.layout import grid_ids, pack, text_ids, unpack


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
