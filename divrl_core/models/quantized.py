"""A frozen base in 8 or 4 bits: which layers are packed, by whose layers, and a trial on the device before.

Packed are the linear layers of the blocks; embedders, the final layer and all norms stay in model.dtype. The packing is
diffusers' own (BitsAndBytesConfig, TorchAoConfig, layerwise casting), done layer by layer after the weights were read.
A pipeline's weights are mapped from their files, so neither a whole copy on the host nor an unpacked one on the device
is made. (Given to `from_pretrained`, BitsAndBytesConfig refuses a CPU that bitsandbytes itself runs on, and cannot
spare the final `proj_out` without sparing that of every single block.) A LoRA beside a packed layer stays float32.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import Any, cast

import torch
from diffusers import BitsAndBytesConfig, TorchAoConfig
from diffusers.hooks import apply_layerwise_casting
from diffusers.quantizers import DiffusersAutoQuantizer
from torch import nn

BLOCKS = ("transformer_blocks", "single_transformer_blocks")
FP8 = torch.float8_e4m3fn
FP8_SPARED = "norm"  # diffusers' own rule; it spares FLUX's modulations (norm1.linear and its like) too


def quantized_linears(transformer: nn.Module, kind: str) -> tuple[str, ...]:
    """Names of the linear layers that `kind` packs, in the model's order; a model on the meta device will do."""
    if kind == "none":
        return ()
    return tuple(
        name
        for name, layer in transformer.named_modules()
        if isinstance(layer, nn.Linear)
        and name.split(".")[0] in BLOCKS
        and not (kind == "fp8" and FP8_SPARED in name)
    )


def hold_quantized(
    transformer: nn.Module, kind: str, *, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """Pack the blocks of a transformer that lies on the host and put it on `device`, layer by layer.

    fp8: float8_e4m3fn storage, each layer unpacked to `dtype` while it computes; in training that saves memory under
    gradient checkpointing alone, since autograd keeps what was unpacked. int8, nf4: bitsandbytes, nf4 without double
    quantisation. torchao_int8: weights alone, a scale a row.

    Raises ValueError or ImportError, in one line, when the kind cannot be had on this device.
    """
    try_kind(kind, dtype=dtype, device=device)
    _pack(transformer, kind, dtype=dtype, device=device)
    return transformer


def try_kind(kind: str, *, dtype: torch.dtype, device: torch.device) -> None:
    """Pack one small layer on the device, forward and backward. Raises ValueError saying what to take instead."""
    trial = nn.Module()
    trial.transformer_blocks = nn.ModuleList([nn.Sequential(nn.Linear(64, 64))])
    trial.to(dtype).requires_grad_(False)
    try:
        _pack(trial, kind, dtype=dtype, device=device)
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.ones(2, 64, dtype=dtype, device=device, requires_grad=True)
            trial.transformer_blocks[0](x).float().sum().backward()
        works = x.grad is not None and bool(torch.isfinite(x.grad).all())
        reason = "its gradient is not finite"
    except (ImportError, RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        works, reason = False, (str(error).strip() or type(error).__name__).splitlines()[0]
    if not works:
        raise ValueError(
            f"model.quantization={kind} does not work here on {device.type} in {str(dtype).removeprefix('torch.')}: "
            f"{reason}; take another model.quantization, or none"
        )


def _pack(transformer: nn.Module, kind: str, *, dtype: torch.dtype, device: torch.device) -> None:
    if kind == "fp8":
        _cast_to_fp8(transformer, dtype=dtype, device=device)
    else:
        _quantize(transformer, kind, dtype=dtype, device=device)
    _move_rest(transformer, device)


def _cast_to_fp8(transformer: nn.Module, *, dtype: torch.dtype, device: torch.device) -> None:
    for name in quantized_linears(transformer, "fp8"):
        layer = transformer.get_submodule(name).to(device)
        apply_layerwise_casting(layer, storage_dtype=FP8, compute_dtype=dtype, skip_modules_pattern=None)


def _config_of(kind: str, dtype: torch.dtype) -> Any:
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if kind == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _quantize(transformer: nn.Module, kind: str, *, dtype: torch.dtype, device: torch.device) -> None:
    # int8 says at every product on a GPU that it is made in float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    quantizer = DiffusersAutoQuantizer.from_config(_config_of(kind, dtype), pre_quantized=False)
    held = {
        name: cast(nn.Linear, transformer.get_submodule(name))
        for name in quantized_linears(transformer, kind)
    }
    if kind != "torchao_int8":
        from diffusers.quantizers.bitsandbytes.utils import replace_with_bnb_linear

        for blocks in (getattr(transformer, name, None) for name in BLOCKS):
            if blocks is not None:
                replace_with_bnb_linear(
                    blocks,
                    modules_to_not_convert=[],
                    quantization_config=copy.copy(quantizer.quantization_config),
                )
        # what peft asks before it takes its layers for bitsandbytes
        setattr(transformer, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)
    for name, source in held.items():
        quantizer.create_quantized_param(transformer, source.weight.data, f"{name}.weight", device, {}, [])
        layer = cast(nn.Linear, transformer.get_submodule(name))
        if source.bias is not None:
            layer.bias = nn.Parameter(source.bias.data.to(device), requires_grad=False)
        layer.weight.requires_grad_(False)
        layer.eval()
        # bitsandbytes repacks 4-bit weights for a CPU's inference kernel at the first call without a gradient: rollout
        # and training would then compute with other kernels, and other bits.
        setattr(layer, "support_avx512bf16_for_cpu", False)  # noqa: B010
    setattr(transformer, "hf_quantizer", quantizer)  # noqa: B010 - where diffusers keeps it, and older peft looks for it


def _move_rest(transformer: nn.Module, device: torch.device) -> None:
    """Put on `device` what does not lie there yet; a packed weight is left alone."""
    for module, name, parameter in _parameters(transformer):
        if parameter.device.type != device.type:
            module._parameters[name] = nn.Parameter(parameter.data.to(device), requires_grad=False)
    for module in transformer.modules():
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def _parameters(transformer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    for module in transformer.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                yield module, name, parameter
