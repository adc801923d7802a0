"""Prompts as token ids of one fixed length, as FLUX's two encoders take them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import CLIPTokenizer, T5TokenizerFast


def token_ids(tokenizer: CLIPTokenizer | T5TokenizerFast, prompts: Sequence[str], length: int) -> Tensor:
    """Token ids (B, length), padded and cut to exactly `length`."""
    tokens = tokenizer(
        list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )
    ids: Tensor = tokens.input_ids
    return ids
