"""The running average of the trained weights: apart from them on the CPU, or in place beside them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def ema_start(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A first average equal to the weights: CPU copies, float32 or better, that share no memory with them."""
    return {name: _own_copy(value) for name, value in params.items()}


def ema_update(shadow: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> dict[str, Tensor]:
    """The next average: ``decay * shadow + (1 - decay) * params``, entry by entry.

    Args:
        shadow: the average so far, by parameter name, as `ema_start` made it.
        params: the weights now, on any device, same names and shapes.
        decay: share of the old average that stays, in [0, 1]; 0 copies the weights, 1 keeps the average.

    Returns:
        New CPU tensors; neither argument is changed or shared.

    Raises:
        ValueError: names or shapes that differ, or a decay outside [0, 1].
    """
    _check(shadow, params, decay)
    return {name: _blend(name, shadow[name], params[name], decay) for name in shadow}


def ema_update_(shadow: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    """`ema_update` in place, where the average lies beside the weights: no copy of either is made.

    For adapters of billions of weights, which no update could wait to see copied. Raises as `ema_update` does.
    """
    _check(shadow, params, decay)
    with torch.no_grad():
        averages, weights = [shadow[name] for name in shadow], [params[name] for name in shadow]
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, weights, alpha=1 - decay)


def _check(shadow: Mapping[str, Tensor], params: Mapping[str, Tensor], decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(f"ema decay must lie in [0, 1], got {decay}")
    if shadow.keys() != params.keys():
        differing = sorted(shadow.keys() ^ params.keys())
        raise ValueError(
            f"ema: average and weights must have the same names; {len(differing)} differ, "
            f"{differing[0]!r} first"
        )


def _blend(name: str, average: Tensor, value: Tensor, decay: float) -> Tensor:
    if average.shape != value.shape:
        raise ValueError(
            f"ema: {name!r} must keep its shape: expected {tuple(average.shape)}, got {tuple(value.shape)}"
        )
    fresh = _own_copy(value)
    return decay * average + (1 - decay) * fresh.to(average.dtype)


def _own_copy(value: Tensor) -> Tensor:
    dtype = torch.promote_types(value.dtype, torch.float32)
    return value.detach().to(device="cpu", dtype=dtype, copy=True)
