"""FLUX's tokens: 2 x 2 latent patches in rows, and the position ids that tell them apart.

An id is (index, row, column). Text is (0, 0, 0); the target's tokens have index 0, a Kontext reference's
index 1, and both count rows and columns from 0. Ids are float32 whatever the model's dtype: bfloat16 is exact
only to 256.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

TARGET_INDEX = 0
REFERENCE_INDEX = 1


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, 2h, 2w) -> tokens (B, h*w, 4C); a token's channels run over (channel, row, column)."""
    tokens: Tensor = rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    return tokens


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens (B, rows*columns, 4C) -> latents (B, C, 2*rows, 2*columns); undoes `pack`."""
    latents: Tensor = rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=2, q=2)
    return latents


def grid_ids(rows: int, columns: int, *, index: int, device: torch.device | str | None = None) -> Tensor:
    """Position ids (rows*columns, 3) of a picture's tokens, row by row."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 0] = index
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    return ids.flatten(0, 1)


def text_ids(length: int, *, device: torch.device | str | None = None) -> Tensor:
    """Position ids (length, 3) of a prompt's tokens: all zero."""
    return torch.zeros(length, 3, device=device)
