"""A picture made as `sample_sheet` makes it, and where points of it look in the reference at one step on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.attention_probe import BlockAttention
    from ..models.conditioning import Conditioning
    from ..models.flux import FluxAdapter

Point = tuple[int, int]
"""x and y in pixels, from the upper left corner."""


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Where one point of the target looks in one block; mean over heads. The three shares sum to 1."""

    block: str
    point: Point
    """In the target."""
    text_share: float
    """Of the point's attention, what goes to the prompt."""
    target_share: float
    """To the target, itself included."""
    reference_share: float
    """To the reference."""
    peak: Point
    """Middle of the token of the reference that gets the most."""
    rows: list[list[float]]
    """Attention to each token of the reference, row by row; all of them sum to `reference_share`."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A finished picture, and what was read at one step on its way."""

    picture: Tensor
    """(3, H, W) in [0, 1]."""
    step: int
    """From 0."""
    time: float
    """In [0, 1], 1 is noise."""
    maps: tuple[AttentionMap, ...]
    """Block by block as asked for, and within a block point by point."""


@dataclass(frozen=True, kw_only=True)
class TokenGrid:
    """The tokens of a picture: squares of pixels, counted row by row. Target and reference share it."""

    columns: int
    token_px: int

    @staticmethod
    def of(adapter: FluxAdapter, size: tuple[int, int]) -> TokenGrid:
        """The grid of a picture of that (height, width). Raises ValueError when a side does not divide evenly."""
        columns = int(adapter.target_ids(*size)[-1, 2]) + 1
        return TokenGrid(columns=columns, token_px=size[1] // columns)

    def token_at(self, point: Point) -> int:
        """The token in which a point lies."""
        x, y = point
        return y // self.token_px * self.columns + x // self.token_px

    def middle_of(self, token: int) -> Point:
        """The middle of a token's square."""
        row, column = divmod(token, self.columns)
        return column * self.token_px + self.token_px // 2, row * self.token_px + self.token_px // 2


def read_attention(
    adapter: FluxAdapter,
    conditioning: Conditioning,
    *,
    size: tuple[int, int],
    seed: int,
    steps: int,
    guidance: float,
    time: float,
    blocks: Sequence[str],
    points: Sequence[Point],
) -> Reading:
    """Make the picture of one seed, bit for bit as `sample_sheet` does, and read the step nearest to `time`.

    Args: conditioning: one prompt and a reference of the picture's size. size: (height, width) in pixels. seed: of the
    noise. time: in [0, 1], 1 is noise. blocks: names as in models/attention_probe.py. points: within the picture.

    Raises ValueError for what `attention_probe` refuses.
    """
    import torch

    from ..flow.noise import keyed_noise
    from ..flow.sde import ode_step
    from ..models.attention_probe import attention_probe

    height, width = size
    grid = TokenGrid.of(adapter, size)
    noise = keyed_noise(adapter.latent_shape(height, width), seed=seed, stream="sample")[None]
    times = adapter.sigmas(steps, height, width).tolist()
    read_step = min(range(steps), key=lambda step: abs(times[step] - time))
    given, ids = conditioning.to(adapter.device), adapter.target_ids(height, width)
    x_t = noise.to(adapter.device, torch.float32)
    found: Mapping[str, BlockAttention] = {}
    with torch.no_grad():
        for step, (t, t_next) in enumerate(pairwise(times)):
            probe = attention_probe(
                adapter.transformer,
                blocks=blocks,
                target_tokens=[grid.token_at(point) for point in points],
                text_count=given.prompt_embeds.shape[1],
                target_count=x_t.shape[1],
            )
            with probe if step == read_step else nullcontext(found) as found:
                velocity = adapter.velocity(x_t, t, given, ids, guidance)
            x_t = ode_step(x_t, velocity, t, t_next)
    return Reading(
        picture=adapter.decode(x_t, height, width)[0].cpu(),
        step=read_step,
        time=times[read_step],
        maps=tuple(
            _map_of(found[block], index, block, point, grid)
            for block in blocks
            for index, point in enumerate(points)
        ),
    )


def _map_of(attention: BlockAttention, index: int, block: str, point: Point, grid: TokenGrid) -> AttentionMap:
    weights = attention.to_reference[0, index]
    return AttentionMap(
        block=block,
        point=point,
        text_share=float(attention.text_share[0, index]),
        target_share=float(attention.target_share[0, index]),
        reference_share=float(attention.reference_share[0, index]),
        peak=grid.middle_of(int(weights.argmax())),
        rows=weights.unflatten(0, (-1, grid.columns)).tolist(),
    )
