"""Encoded prompts and references as a batch: repeating, selecting, joining, moving."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from divrl_core.models.conditioning import Conditioning, TextEmbeddings


def conditioning(count: int, seed: int = 0) -> Conditioning:
    generator = torch.Generator().manual_seed(seed)
    return Conditioning(
        prompt_embeds=torch.randn(count, 4, 8, generator=generator),
        pooled=torch.randn(count, 6, generator=generator),
        text_ids=torch.zeros(4, 3),
        reference_tokens=torch.randn(count, 5, 64, generator=generator),
        reference_ids=torch.ones(5, 3),
    )


def same(one: Conditioning, other: Conditioning) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def test_repeating_puts_the_copies_of_a_sample_beside_each_other() -> None:
    two = conditioning(2)
    assert same(two.repeat(3), two.select([0, 0, 0, 1, 1, 1]))


def test_selecting_every_sample_and_joining_them_gives_the_batch_back() -> None:
    three = conditioning(3)
    assert same(Conditioning.cat([three.select(i) for i in range(3)]), three)


@pytest.mark.parametrize("samples", [slice(1, 3), [1, 2], (1, 2), torch.tensor([1, 2])])
def test_samples_are_selected_by_slice_list_or_tensor(samples: slice) -> None:
    three = conditioning(3)
    picked = three.select(samples)
    assert torch.equal(picked.pooled, three.pooled[1:])
    assert torch.equal(picked.prompt_embeds, three.prompt_embeds[1:])
    assert torch.equal(picked.reference_tokens, three.reference_tokens[1:])
    assert len(picked) == 2


def test_one_number_keeps_the_batch_dimension() -> None:
    assert conditioning(3).select(-1).reference_tokens.shape == (1, 5, 64)
    assert TextEmbeddings(torch.randn(3, 4, 8), torch.randn(3, 6)).select(1).prompt_embeds.shape == (1, 4, 8)


def test_another_dtype_leaves_the_ids_in_float32() -> None:
    half = conditioning(1).to(dtype=torch.bfloat16)
    assert (half.prompt_embeds.dtype, half.pooled.dtype, half.reference_tokens.dtype) == (torch.bfloat16,) * 3
    assert (half.text_ids.dtype, half.reference_ids.dtype) == (torch.float32,) * 2


def test_it_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        conditioning(1).pooled = torch.zeros(1, 6)  # type: ignore[misc]


def test_references_of_two_sizes_are_not_joined() -> None:
    wide = replace(conditioning(1), reference_ids=torch.ones(7, 3), reference_tokens=torch.randn(1, 7, 64))
    with pytest.raises(ValueError, match=r"share their reference_ids, got \(5, 3\) and \(7, 3\)"):
        Conditioning.cat([conditioning(1), wide])


def test_joining_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one part"):
        Conditioning.cat([])


def test_repeating_zero_times_is_refused() -> None:
    with pytest.raises(ValueError, match="times must be at least 1, got 0"):
        conditioning(1).repeat(0)
