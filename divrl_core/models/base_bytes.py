"""Bytes of the frozen transformer, by how it is held, block by block: derived from the libraries' formats.

fp8: one byte a number, biases too. int8 (bitsandbytes): one byte, and a float32 scale a row. nf4: half a byte, a
float32 scale for 64 numbers, and the 16 values of the code; without double quantisation. torchao_int8: one byte, a
float32 scale and a zero point of one byte a row. What is packed `quantized.quantized_linears` says; the rest is in
model.dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from .offload import blocks_in_order
from .quantized import quantized_linears

NF4_BLOCK, NF4_CODE_BYTES = 64, 16 * 4


@dataclass(frozen=True, kw_only=True)
class BaseBytes:
    """Bytes of a frozen transformer."""

    root: int
    """What is outside of the blocks: embedders, the final layer."""
    blocks: tuple[int, ...]
    """Each block, in the order of use."""
    unpacked: tuple[int, ...]
    """What a block's packed layers take unpacked in model.dtype, for those kinds whose unpacked weights autograd keeps
    until the block's backward pass is done (fp8, torchao_int8); else 0."""
    largest_unpacked: int
    """The largest packed layer, unpacked: what computing with it takes for a moment; 0 where nothing is packed."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.root + sum(self.blocks)


def base_bytes(transformer: nn.Module, dtype: torch.dtype, quantization: str) -> BaseBytes:
    """Count a transformer (one on the meta device will do, without a LoRA) as `quantization` would hold it."""
    packed = set(quantized_linears(transformer, quantization))
    linears = {name: _linear(transformer, name) for name in packed}
    size_of = {id(layer): _packed_bytes(layer, dtype, quantization) for layer in linears.values()}
    unpacked_of = {id(layer): layer.weight.numel() * dtype.itemsize for layer in linears.values()}

    def count(module: nn.Module) -> int:
        return sum(
            size_of[id(part)] if id(part) in size_of else _own_bytes(part, dtype) for part in module.modules()
        )

    blocks = blocks_in_order(transformer)
    keeps = quantization in ("fp8", "torchao_int8")
    sizes = tuple(count(block) for block in blocks)
    return BaseBytes(
        root=count(transformer) - sum(sizes),
        blocks=sizes,
        unpacked=tuple(
            sum(unpacked_of.get(id(part), 0) for part in block.modules()) if keeps else 0 for block in blocks
        ),
        largest_unpacked=max(unpacked_of.values(), default=0),
    )


def file_bytes(path: Path, base: BaseBytes) -> BaseBytes:
    """A .gguf file stays as it is on the device: its own size, spread over the blocks as they are in `base`.

    Raises FileNotFoundError when it is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"model.transformer_file: there is no file {path}")
    share = path.stat().st_size / base.total
    blocks = tuple(round(size * share) for size in base.blocks)
    return BaseBytes(
        root=path.stat().st_size - sum(blocks),
        blocks=blocks,
        unpacked=(0,) * len(blocks),
        largest_unpacked=base.largest_unpacked,
    )


def _own_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    parameters = sum(parameter.numel() * dtype.itemsize for parameter in module.parameters(recurse=False))
    return parameters + sum(b.numel() * b.element_size() for b in module.buffers(recurse=False))


def _linear(transformer: nn.Module, name: str) -> nn.Linear:
    layer = transformer.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer


def _packed_bytes(layer: nn.Linear, dtype: torch.dtype, kind: str) -> int:
    numbers, rows = layer.weight.numel(), layer.out_features
    bias = 0 if layer.bias is None else rows * (1 if kind == "fp8" else dtype.itemsize)
    scales = {
        "fp8": 0,
        "int8": 4 * rows,
        "nf4": 4 * -(-numbers // NF4_BLOCK) + NF4_CODE_BYTES,
        "torchao_int8": 5 * rows,
    }[kind]
    return (-(-numbers // 2) if kind == "nf4" else numbers) + scales + bias
