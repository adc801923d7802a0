"""What a FLUX transformer is given for a batch: checked, and in its own unit of time."""

from __future__ import annotations

import torch
from torch import Tensor

from .conditioning import Conditioning


def model_time(t: float | Tensor, x_t: Tensor) -> Tensor:
    """Time in [0, 1] as FluxTransformer2DModel takes it, (B,): it multiplies by 1000 itself."""
    time = torch.as_tensor(t, dtype=torch.float32, device=x_t.device)
    if time.ndim > 1 or (time.ndim == 1 and len(time) != len(x_t)):
        raise ValueError(
            f"velocity: t must be one number or one for each of {len(x_t)} samples, got {tuple(time.shape)}"
        )
    if isinstance(t, float | int) and not 0 <= t <= 1:
        raise ValueError(f"velocity: t must lie in [0, 1] (1 = noise), got {t}")
    return time.expand(len(x_t))


def check_batch(x_t: Tensor, conditioning: Conditioning, target_ids: Tensor) -> None:
    """Raise ValueError when noisy tokens, conditioning and position ids are not of one batch and size."""
    if x_t.ndim != 3 or len(x_t) != len(conditioning):
        raise ValueError(
            f"velocity: x_t must be ({len(conditioning)}, N, C) like its conditioning, got {tuple(x_t.shape)}"
        )
    if tuple(target_ids.shape) != (x_t.shape[1], 3):
        raise ValueError(
            f"velocity: target_ids must be ({x_t.shape[1]}, 3), a row for each token of x_t, "
            f"got {tuple(target_ids.shape)}"
        )
