"""Which kernels a device would run, said in torch's own operators, so that a trace keeps what they would keep.

A trace has no device to ask. Attention keeps other tensors in each kernel: math the weights (N x N), flash and
efficient the output and one number a row. Under autocast a GPU computes norms in float32, a CPU does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

DeviceKind = Literal["cpu", "cuda"]
FLASH_HEAD_DIM = 256  # flash takes no wider heads
_FLOAT32_NORMS: tuple[Callable[..., Any], ...] = (F.layer_norm, F.rms_norm, F.group_norm)


class PlannedKernels(TorchFunctionMode):
    """Inside this block attention and norms are those of a device of that kind.

    attention: math, flash, efficient, cudnn, or auto (on a GPU flash where it can be had, else efficient; on a CPU its
    own flash kernel), as `attention.py` names them.
    """

    def __init__(self, device: DeviceKind, attention: str) -> None:
        super().__init__()
        self.device, self.attention = device, attention

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func in _FLOAT32_NORMS and self.device == "cuda" and torch.is_autocast_enabled("cpu"):
            args = tuple(_float32(value) for value in args)
            kwargs = {name: _float32(value) for name, value in kwargs.items()}
        return func(*args, **kwargs)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        with torch.autocast("cpu", enabled=False):  # as below the operator that autocast knows
            return self._run(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)

    def _run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> Tensor:
        ops, settings = torch.ops.aten, {"scale": scale}
        kernel = self._kernel(query) if attn_mask is None and not enable_gqa else "math"
        if kernel == "flash":
            return ops._scaled_dot_product_flash_attention(
                query, key, value, dropout_p, is_causal, **settings
            )[0]
        if kernel == "flash_cpu":
            flash = ops._scaled_dot_product_flash_attention_for_cpu
            return flash(query, key, value, dropout_p, is_causal, **settings)[0]
        if kernel in ("efficient", "cudnn"):
            op = getattr(ops, f"_scaled_dot_product_{kernel}_attention")
            keeps_rows = torch.is_grad_enabled() and query.requires_grad
            return op(query, key, value, None, keeps_rows, dropout_p, is_causal, **settings)[0]
        return ops._scaled_dot_product_attention_math(
            query, key, value, attn_mask, dropout_p, is_causal, None, **settings, enable_gqa=enable_gqa
        )[0]

    def _kernel(self, query: Tensor) -> str:
        if self.attention != "auto":
            return self.attention
        if self.device == "cpu":
            return "flash_cpu"
        is_short = query.dtype != torch.float32 and query.shape[-1] <= FLASH_HEAD_DIM
        return "flash" if is_short else "efficient"


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
