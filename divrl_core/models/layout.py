"""FLUX's tokens: 2 x 2 latent patches in rows, and the position ids that tell target and reference apart.

An id is (index, row, column). Text is (0, 0, 0); the target's tokens have index 0 and count rows and columns from
0. Where the reference's tokens lie is its layout, one function each below, and nothing else differs between layouts:
they are always the target's tokens followed by the reference's. Ids are float32 whatever the model's dtype: bfloat16
is exact only to 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of a picture's tokens."""

TARGET_INDEX = 0
KONTEXT_INDEX = 1


def pack(latents: Tensor) -> Tensor:
    """Latents (B, C, 2h, 2w) -> tokens (B, h*w, 4C); a token's channels run over (channel, row, column)."""
    tokens: Tensor = rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2)
    return tokens


def unpack(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """Tokens (B, rows*columns, 4C) -> latents (B, C, 2*rows, 2*columns); undoes `pack`."""
    latents: Tensor = rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, w=columns, p=2, q=2)
    return latents


def grid_ids(
    rows: int,
    columns: int,
    *,
    index: int = TARGET_INDEX,
    first_row: int = 0,
    first_column: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Position ids (rows*columns, 3) of a picture's tokens, row by row."""
    ids = torch.zeros(rows, columns, 3, device=device)
    ids[..., 0] = index
    ids[..., 1] = first_row + torch.arange(rows, device=device)[:, None]
    ids[..., 2] = first_column + torch.arange(columns, device=device)[None, :]
    return ids.flatten(0, 1)


def text_ids(length: int, *, device: torch.device | str | None = None) -> Tensor:
    """Position ids (length, 3) of a prompt's tokens: all zero."""
    return torch.zeros(length, 3, device=device)


# Where the reference's tokens lie, (M, 3), for a reference and a target of these grids.


def kontext_ids(reference: Grid, target: Grid) -> Tensor:
    """FLUX.1-Kontext: a picture behind the target, index 1, rows and columns from 0."""
    return grid_ids(*reference, index=KONTEXT_INDEX)


def width_ids(reference: Grid, target: Grid) -> Tensor:
    """Masked conditional flow matching (arXiv:2511.08061): to the right of the target, on one canvas.

    Rows are shared, columns go on after the target's. With panels of one height the ids are those of one wide
    picture, up to the order of its tokens.
    """
    return grid_ids(*reference, first_column=target[1])


def width_ids_of_several(references: Sequence[Grid], target: Grid) -> Tensor:
    """Several references side by side, to the right of the target: (sum of M, 3), in their order."""
    ids, column = [], target[1]
    for reference in references:
        ids.append(width_ids(reference, (target[0], column)))
        column += reference[1]
    return torch.cat(ids) if ids else grid_ids(0, 0)


def diagonal_ids(reference: Grid, target: Grid) -> Tensor:
    """UNO (arXiv:2504.02160): below and to the right of the target, no row or column shared."""
    return grid_ids(*reference, first_row=target[0], first_column=target[1])


LAYOUTS: dict[str, Callable[[Grid, Grid], Tensor]] = {
    "kontext": kontext_ids,
    "width": width_ids,
    "diagonal": diagonal_ids,
}
NO_REFERENCE = "none"  # text to image: the reference is left out


def reference_ids(layout: str, reference: Grid, target: Grid) -> Tensor:
    """Position ids (M, 3) of the reference's tokens; no rows at all in the layout "none".

    Raises ValueError when the layout is unknown.
    """
    if layout == NO_REFERENCE:
        return grid_ids(0, 0)
    if layout not in LAYOUTS:
        raise ValueError(f"model.layout must be one of {', '.join([*LAYOUTS, NO_REFERENCE])}, got {layout!r}")
    return LAYOUTS[layout](reference, target)


@dataclass(frozen=True)
class Canvas:
    """What the transformer sees of B samples: the target's tokens and the reference's, in one sequence."""

    tokens: Tensor
    """(B, N + M, C)."""
    ids: Tensor
    """(N + M, 3)."""
    is_target: Tensor
    """(N + M,) bool: the tokens that are drawn, and that the masked loss counts."""


def canvas(target: Tensor, target_ids: Tensor, reference: Tensor, reference_ids: Tensor) -> Canvas:
    """Put target tokens (B, N, C) and reference tokens (B, M, C) together."""
    flags = torch.arange(target.shape[1] + reference.shape[1], device=target.device) < target.shape[1]
    return Canvas(
        tokens=torch.cat([target, reference], dim=1),
        ids=torch.cat([target_ids, reference_ids]),
        is_target=flags,
    )
