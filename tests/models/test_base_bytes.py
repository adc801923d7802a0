"""Bytes of a frozen base by kind, against the real packed layers of diffusers, bitsandbytes and torchao."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from divrl_core.models.base_bytes import base_bytes, file_bytes
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.quantized import hold_quantized
from divrl_core.models.traced_model import config_key, transformer_on_meta

KINDS = ("fp8", "int8", "nf4", "torchao_int8")


def test_a_plain_base_is_counted_to_the_byte(tiny_pipeline: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        real = FluxAdapter.load(str(tiny_pipeline), dtype=dtype).transformer
        planned = base_bytes(on_meta_of(real), next(real.parameters()).dtype, "none")
        assert planned.total == held_bytes(real)
        assert planned.blocks == tuple(map(held_bytes, blocks_of(real)))
        assert planned.largest_unpacked == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_base_is_counted_to_the_byte(tiny_pipeline: Path, kind: str) -> None:
    real = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16").transformer
    planned = base_bytes(on_meta_of(real), torch.bfloat16, kind)
    packed = hold_quantized(real, kind, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert planned.total == held_bytes(packed)
    assert planned.blocks == tuple(map(held_bytes, blocks_of(packed)))


@pytest.mark.parametrize("kind", ["fp8", "torchao_int8"])
def test_weights_that_are_kept_unpacked_are_counted(tiny_pipeline: Path, kind: str) -> None:
    real = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16").transformer
    planned = base_bytes(on_meta_of(real), torch.bfloat16, kind)
    packed = hold_quantized(real, kind, dtype=torch.bfloat16, device=torch.device("cpu"))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.ndim == 2 and min(tensor.shape) >= 128:  # a weight, not an activation of three tokens
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    single = packed.single_transformer_blocks[0]  # type: ignore[index]
    hidden = torch.randn(1, 3, 128, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        for layer in (single.attn.to_q, single.attn.to_k, single.attn.to_v, single.proj_mlp):
            hidden = hidden + layer(hidden)[..., :128]
        hidden = hidden + single.proj_out(torch.cat([hidden] * 5, dim=-1))
    if kind == "torchao_int8":  # whose norm is packed too, and was not run
        norm = single.norm.linear
        kept[0] = norm.in_features * norm.out_features * 2
    assert sum(kept.values()) == planned.unpacked[-1]


def test_a_gguf_file_counts_by_its_own_size(tiny_pipeline: Path, tmp_path: Path) -> None:
    base = base_bytes(on_meta_of(FluxAdapter.load(str(tiny_pipeline)).transformer), torch.bfloat16, "none")
    file = tmp_path / "flux.gguf"
    file.write_bytes(b"\0" * 12_345)
    assert file_bytes(file, base).total == 12_345
    with pytest.raises(FileNotFoundError, match="no file"):
        file_bytes(tmp_path / "missing.gguf", base)


def on_meta_of(transformer: nn.Module) -> nn.Module:
    return transformer_on_meta(config_key(transformer.config), torch.bfloat16)  # type: ignore[arg-type]


def blocks_of(transformer: nn.Module) -> list[nn.Module]:
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]  # type: ignore[misc]


def held_bytes(module: nn.Module) -> int:
    """Bytes of every tensor behind a module's parameters and buffers, a packed one's scales and codes too."""
    found: dict[int, int] = {}
    for part in module.modules():
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            for plain in plain_tensors(tensor):
                found[plain.untyped_storage()._cdata] = plain.untyped_storage().nbytes()
        state = getattr(part, "state", None)
        scales = getattr(state, "SCB", None) if state is not None else None
        if isinstance(scales, Tensor):
            found[scales.untyped_storage()._cdata] = scales.untyped_storage().nbytes()
    return sum(found.values())


def plain_tensors(tensor: Tensor) -> list[Tensor]:
    if is_traceable_wrapper_subclass(tensor):
        return [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
    state = getattr(tensor, "quant_state", None)
    if state is not None:
        return [tensor.data, state.absmax, state.code]
    scales = getattr(tensor, "SCB", None)
    return [tensor.data, *([scales] if isinstance(scales, Tensor) else [])]
