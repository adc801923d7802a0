"""ComfyUI's scaled fp8: a layer's weight is stored as `weight / scale` in 8 bits, the scale beside it.

Two spellings are read: `x.scale_weight` with a file-wide `scaled_fp8` marker, and the newer `x.weight_scale` with
`x.comfy_quant` (a few bytes of JSON) or `_quantization_metadata` in the header. Scales of the inputs (`x.scale_input`,
`x.input_scale`) belong to fp8 arithmetic, which is not done here: the weights are unpacked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .tensor_headers import TensorHeader

MARKER = "scaled_fp8"
_WEIGHT_SCALES = (".scale_weight", ".weight_scale")
_INPUT_SCALES = (".scale_input", ".input_scale")
_FORMAT = ".comfy_quant"
FP8_KINDS = frozenset({"F8_E4M3", "F8_E5M2"})
_FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class LayerScales:
    """of: weight -> the name of its scale. names: all tensors of the file that are no weights but belong to scaling."""

    of: Mapping[str, str]
    names: frozenset[str]


def layer_scales(path: Path, tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str]) -> LayerScales:
    """Which weights are scaled. Raises ValueError where a scale is missing, strange, or of a format that is not fp8."""
    of: dict[str, str] = {}
    names = {name for name in tensors if name == MARKER or name.endswith((*_INPUT_SCALES, _FORMAT))}
    for name, entry in tensors.items():
        ending = next((ending for ending in _WEIGHT_SCALES if name.endswith(ending)), None)
        if ending is None:
            continue
        weight = f"{name.removesuffix(ending)}.weight"
        names.add(name)
        if weight not in tensors:
            raise ValueError(
                f"{path}: {name} is the scale of a weight that the file has not; get the file again"
            )
        rows = tensors[weight].shape[0]
        if entry.shape not in ((), (1,), (1, 1), (rows,), (rows, 1)) or tensors[weight].kind not in FP8_KINDS:
            raise ValueError(
                f"{path}: {weight} is packed in a way that is not known here ({tensors[weight].kind}, scale of shape "
                f"{entry.shape}); get the file in bfloat16, scaled fp8 or .gguf"
            )
        of[weight] = name
    _check_formats(path, tensors, metadata)
    if of or MARKER in tensors:
        for name, entry in tensors.items():
            if name.endswith(".weight") and entry.kind in FP8_KINDS and name not in of:
                raise ValueError(f"{path}: scaled fp8, but {name} has no scale; get the file again")
    return LayerScales(of, frozenset(names))


def scaled(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The numbers that a scaled weight (out, in) stands for: computed in float32, rounded once to `dtype`."""
    factor = scale.to(torch.float32)
    by_row = (-1, *[1] * (weight.ndim - 1)) if factor.numel() > 1 else ()
    factor = factor.reshape(by_row)
    return (weight.to(torch.float32) * factor).to(dtype)


def _check_formats(path: Path, tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str]) -> None:
    formats = _formats_of_header(path, metadata)
    marked = [name for name in tensors if name.endswith(_FORMAT)]
    if marked:
        with safe_open(path, framework="pt", device="cpu") as file:
            held = set(file.keys())
            for name in marked:
                whole = name if name in held else f"model.diffusion_model.{name}"
                formats[name.removesuffix(_FORMAT)] = _json(bytes(file.get_tensor(whole).tolist())).get(
                    "format"
                )
    for layer, stated in formats.items():
        if stated not in _FP8_FORMATS:
            raise ValueError(
                f"{path}: {layer} is packed as {stated}, which cannot be read here; get the file in bfloat16, fp8 or "
                ".gguf, and set model.quantization to pack it here"
            )


def _formats_of_header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    layers = _json(metadata.get("_quantization_metadata", "{}").encode()).get("layers", {})
    return {
        str(name): entry.get("format") if isinstance(entry, dict) else None
        for name, entry in dict(layers).items()
    }


def _json(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
