"""Mind-the-Glitch's aggregation stacks: taps of many widths and sizes become one feature map on a common grid.

Source: arXiv:2509.21989, and the layout of its published weights. Two stacks of one form, semantic and visual:

    features = normalise(layer_1(tap_1) + sum over i > 1 of w_i layer_i(tap_i)),  w = softmax(mixing_weights)

The softmax runs over all taps, and the first enters with weight 1 whatever its own w is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class StackShape:
    """The sizes of a stack.

    widths: channels of each tap. blocks: bottleneck blocks a tap. bottleneck: channels inside a block. projection:
    channels of the features. norm_groups: groups of every GroupNorm; must divide both.
    """

    widths: tuple[int, ...]
    blocks: int
    bottleneck: int
    projection: int
    norm_groups: int


class NormedConv(nn.Conv2d):
    """A convolution without bias that keeps the grid, and GroupNorm after it."""

    def __init__(self, width_in: int, width_out: int, kernel: int, groups: int) -> None:
        super().__init__(width_in, width_out, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(groups, width_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w)."""
        return self.norm(super().forward(x))


class Bottleneck(nn.Module):
    """relu(c3(relu(c2(relu(c1(x))))) + x): c1, c3 1 x 1, c2 3 x 3; x by a 1 x 1 of its own where the widths differ."""

    def __init__(self, width: int, shape: StackShape) -> None:
        super().__init__()
        inner, outer, groups = shape.bottleneck, shape.projection, shape.norm_groups
        self.conv1 = NormedConv(width, inner, 1, groups)
        self.conv2 = NormedConv(inner, inner, 3, groups)
        self.conv3 = NormedConv(inner, outer, 1, groups)
        self.shortcut = None if width == outer else NormedConv(width, outer, 1, groups)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> (B, projection, h, w)."""
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class AggregationStack(nn.Module):
    """One of the two stacks."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                *(Bottleneck(shape.projection if block else width, shape) for block in range(shape.blocks))
            )
            for width in shape.widths
        )
        self.mixing_weights = nn.Parameter(torch.zeros(len(shape.widths)))

    def forward(self, taps: Sequence[Tensor], grid: int) -> Tensor:
        """Taps (B, C_i, h_i, w_i) in the stack's order -> float32 features (B, projection, grid, grid) of unit length.

        Each tap is resized to the grid first: bilinear, no antialiasing.
        """
        weights = self.mixing_weights.softmax(dim=0)
        mixed: Tensor | None = None
        for place, (tap, layer) in enumerate(zip(taps, self.layers, strict=True)):
            resized = F.interpolate(tap.float(), (grid, grid), mode="bilinear", align_corners=False)
            mixed = layer(resized) if mixed is None else mixed + weights[place] * layer(resized)
        assert mixed is not None
        return F.normalize(mixed, dim=1)
