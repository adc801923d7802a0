"""How much better a sample did than the others of its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Advantages:
    """Advantages of a batch and what is to be known about its groups.

    values: (B,), 0 where the sample is invalid or its group flat; positive = better than its group.
    valid: bool (B,), False where the reward was undefined; such samples belong in no loss and no average.
    group_std: (num_groups,), population std over a group's valid samples; NaN for a group without any.
    flat_groups: bool (num_groups,), True where the rewards do not vary enough to learn from.
    """

    values: Tensor
    valid: Tensor
    group_std: Tensor
    flat_groups: Tensor


def group_advantages(
    rewards: Tensor,
    group_index: Tensor,
    *,
    std_over: Literal["group", "batch"] = "group",
    clamp: float = 5.0,
    min_std: float = 1e-4,
) -> Advantages:
    """Group-relative advantages: ``A = (R - mean) / std`` within each group (arXiv:2606.23950, eq. 1).

    Means and population stds are taken in float64 over the valid (finite) samples only. A group whose own std
    is below `min_std` gives zeros instead of amplified noise.

    Args:
        rewards: (B,), higher is better, NaN where undefined.
        group_index: (B,) integers 0, 1, ...: which (reference, prompt) pair a sample belongs to.
        std_over: divide by the group's own std, or by that of the whole batch.
        clamp: advantages are limited to +-clamp; above 0.
        min_std: the least std, in reward units, that counts as variation.

    Raises:
        ValueError: shapes that differ, an index that is not integer or negative, or an unknown `std_over`.
    """
    _check(rewards, group_index, std_over, clamp)
    valid = torch.isfinite(rewards)
    rewards_64 = torch.where(valid, rewards.double(), 0.0)
    num_groups = int(group_index.max()) + 1 if len(group_index) else 0

    # Statistics of each group over its valid samples; a group without any has 0/0 = NaN.
    count = _sum_by_group(valid.double(), group_index, num_groups)
    mean = _sum_by_group(rewards_64, group_index, num_groups) / count
    deviation = torch.where(valid, rewards_64 - mean[group_index], 0.0)
    group_std = (_sum_by_group(deviation.square(), group_index, num_groups) / count).sqrt()
    flat_groups = ~(group_std >= min_std)

    # The divisor: the group's own std or the batch's.
    if std_over == "group":
        divisor = group_std[group_index]
    else:
        scored = rewards_64[valid]
        divisor = (scored - scored.mean()).square().mean().sqrt().expand(len(rewards))
    is_scored = valid & ~flat_groups[group_index] & (divisor >= min_std)
    values = torch.where(is_scored, (deviation / divisor).clamp(-clamp, clamp), 0.0)

    dtype = torch.promote_types(rewards.dtype, torch.float32)
    return Advantages(values.to(dtype), valid, group_std.to(dtype), flat_groups)


def _sum_by_group(values: Tensor, group_index: Tensor, num_groups: int) -> Tensor:
    return values.new_zeros(num_groups).index_add(0, group_index, values)


def _check(rewards: Tensor, group_index: Tensor, std_over: str, clamp: float) -> None:
    if rewards.ndim != 1 or group_index.shape != rewards.shape:
        raise ValueError(
            "group_advantages needs one reward and one group index a sample: "
            f"got rewards {tuple(rewards.shape)} and group_index {tuple(group_index.shape)}"
        )
    if group_index.dtype not in (torch.int64, torch.int32) or bool((group_index < 0).any()):
        raise ValueError(
            f"group_index must be integers 0, 1, ...; got {group_index.dtype}; number the groups by their ids"
        )
    if std_over not in ("group", "batch"):
        raise ValueError(f'std_over must be "group" or "batch", got {std_over!r}')
    if clamp <= 0:
        raise ValueError(f"clamp must be above 0, got {clamp}")
