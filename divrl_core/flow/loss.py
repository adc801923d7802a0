"""The flow-matching loss, restricted to the tokens that are to be learnt."""

from __future__ import annotations

import torch
from torch import Tensor

from .path import at_least_float32


def masked_flow_loss(
    v_pred: Tensor, v_target: Tensor, token_mask: Tensor | None, sample_weights: Tensor | None = None
) -> Tensor:
    """Masked conditional flow matching (arXiv:2511.08061): ``sum(w mu |v_pred - v_target|^2) / sum(mu)``.

    mu is 1 on the tokens of the target and 0 on those of the reference, for all of a token's channels alike,
    so that without a mask this is the mean squared error. Predictions outside the mask get a gradient of
    exactly 0.

    Args:
        v_pred: predicted velocity (B, N, C).
        v_target: true velocity ``eps - x_0`` of the same shape.
        token_mask: bool (N,) or (B, N), True where the loss counts; None counts all tokens.
        sample_weights: w, (B,), by each sample's time (times.loss_weights); None weighs all alike.

    Returns:
        Scalar loss in float32 or better; lower is better.

    Raises:
        ValueError: shapes that differ, a mask that is not bool or not one flag a token, a mask without any token,
            or weights that are not one a sample.
    """
    if v_pred.shape != v_target.shape:
        raise ValueError(
            f"masked_flow_loss: v_target must have v_pred's shape: expected {tuple(v_pred.shape)}, "
            f"got {tuple(v_target.shape)}"
        )
    error = at_least_float32(v_pred) - at_least_float32(v_target)
    if sample_weights is not None:
        if sample_weights.shape != v_pred.shape[:1]:
            raise ValueError(
                f"sample_weights must hold one weight a sample: expected ({len(v_pred)},), "
                f"got {tuple(sample_weights.shape)}"
            )
        error = error * sample_weights.to(error.dtype).sqrt()[:, None, None]
    if token_mask is None:
        return error.square().mean()
    counted = _token_flags(token_mask, v_pred)
    # where(), not a product: a NaN outside the mask must not reach the loss or its gradient.
    inside = torch.where(counted[..., None], error, torch.zeros((), dtype=error.dtype, device=error.device))
    return inside.square().sum() / (counted.sum() * v_pred.shape[-1])


def _token_flags(token_mask: Tensor, v_pred: Tensor) -> Tensor:
    batch, tokens = v_pred.shape[:2]
    if token_mask.dtype != torch.bool:
        raise ValueError(
            f"token_mask must be bool, got {token_mask.dtype}; compare it with a threshold first"
        )
    if token_mask.shape not in ((tokens,), (batch, tokens)):
        raise ValueError(
            f"token_mask must hold one flag a token: expected ({tokens},) or ({batch}, {tokens}), "
            f"got {tuple(token_mask.shape)}"
        )
    if not bool(token_mask.any()):
        raise ValueError(
            "token_mask counts no token at all: the loss would be 0/0; mark the target's tokens True"
        )
    return token_mask.expand(batch, tokens)
