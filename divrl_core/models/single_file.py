"""A FLUX transformer from one file: .safetensors as Black Forest Labs, ComfyUI or diffusers write it, or .gguf.

The header is checked against the pipeline's own config before a weight is read: diffusers' converter is run on the
file's names and shapes on the meta device, and what comes out must be the transformer, no weight more or less.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel, GGUFQuantizationConfig
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors import safe_open
from torch import Tensor, nn

from .scaled_weights import LayerScales, layer_scales, scaled
from .tensor_headers import GGUF, FileHeader, TensorHeader, read_header

# ComfyUI's whole checkpoints hold the transformer under this name, beside text encoders and VAE.
PREFIX = "model.diffusion_model."
PLAIN_KINDS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
CONVERTER_WIDTH = 3072  # diffusers' converter splits fused layers at FLUX.1's own width only
_OTHER_MODELS = {
    "input_blocks.": "a Stable Diffusion UNet",
    "joint_blocks.": "a Stable Diffusion 3 transformer",
    "distilled_guidance_layer.": "a Chroma transformer",
    "double_stream_modulation_img.": "a FLUX.2 transformer",
    "encoder.block.": "a T5 text encoder",
    "text_model.encoder.": "a CLIP text encoder",
    "decoder.up.": "a VAE",
    "decoder.up_blocks.": "a VAE",
}
_LORA_MARKS = (".lora_", "lora_unet_", "lora_transformer_", ".lora.", "lora_A", "lora_B")
_PACKED_MARKS = (".absmax", ".quant_state.", ".quant_map", ".qweight", ".wscales", ".SCB", ".qdata")


def check_single_file(path: Path, config: Mapping[str, Any] | None) -> None:
    """Raise FileNotFoundError, ImportError or ValueError, in one line, where the file cannot be the transformer.

    `config` is that of the pipeline's transformer; None: not known yet, so that names alone are looked at.
    """
    header = read_header(path)
    tensors, _ = _transformer_part(path, header)
    if config is not None:
        _check_against(path, tensors, config)


def load_single_file(path: Path, folder: Path, *, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The transformer whose config lies in `folder` with the file's weights, in `dtype` on `device`.

    A .gguf file's layers stay packed (diffusers' GGUFLinear), and are unpacked to `dtype` while they compute. fp8 is
    read as the numbers it stands for: by its scales where the file has them. Errors as in `check_single_file`.
    """
    config: dict[str, Any] = FluxTransformer2DModel.load_config(str(folder), local_files_only=True)
    header = read_header(path)
    tensors, scales = _transformer_part(path, header)
    _check_against(path, tensors, config)
    given: dict[str, Any] = {
        "config": str(folder),
        "torch_dtype": dtype,
        "device": str(device),
        "local_files_only": True,
    }
    if path.suffix.lower() == GGUF:
        quantization = GGUFQuantizationConfig(compute_dtype=dtype)
        return FluxTransformer2DModel.from_single_file(str(path), quantization_config=quantization, **given)
    weights = _read(path, header, tensors, scales, dtype)
    return FluxTransformer2DModel.from_single_file(weights, **given)


def _transformer_part(path: Path, header: FileHeader) -> tuple[dict[str, TensorHeader], LayerScales]:
    """The transformer's tensors by their names without prefix, and the scales of those that have one."""
    names = list(header.tensors)
    if any(mark in name for name in names for mark in _LORA_MARKS):
        raise ValueError(
            f"{path}: a LoRA, not a model; name it in run.init_lora, and a whole transformer here"
        )
    part = {
        name.removeprefix(PREFIX): entry
        for name, entry in header.tensors.items()
        if name.startswith(PREFIX) or not any(name.startswith(PREFIX) for name in names)
    }
    for mark, model in _OTHER_MODELS.items():
        if any(name.startswith(mark) or f".{mark}" in name for name in part):
            raise ValueError(f"{path}: {model}; the transformer of a FLUX.1 model is needed")
    packed = next((name for name in part for mark in _PACKED_MARKS if mark in name), None)
    if packed is not None:
        raise ValueError(
            f"{path}: holds packed weights that diffusers cannot read from one file ({packed}); get it in bfloat16, "
            "fp8 or .gguf, and set model.quantization to pack it here"
        )
    if path.suffix.lower() == GGUF:
        return part, LayerScales({}, frozenset())
    scales = layer_scales(path, part, header.metadata)
    tensors = {name: entry for name, entry in part.items() if name not in scales.names}
    for name, entry in tensors.items():
        if entry.kind not in PLAIN_KINDS:
            raise ValueError(
                f"{path}: {name} is of kind {entry.kind}; weights in {', '.join(sorted(PLAIN_KINDS))} are needed, "
                "or a .gguf file"
            )
    return tensors, scales


def _check_against(path: Path, tensors: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> None:
    """Run diffusers' converter on the meta device and compare with the config's transformer."""
    with torch.device("meta"):
        transformer = FluxTransformer2DModel.from_config(dict(config))
    wanted = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    found = {name: entry.shape for name, entry in tensors.items()}
    if not wanted.keys() <= found.keys():
        width = config.get("num_attention_heads", 24) * config.get("attention_head_dim", 128)
        found = _converted(path, found, width)
    unfit = f"{path}: not the transformer of this pipeline"
    for name, shape in wanted.items():
        if name not in found:
            raise ValueError(
                f"{unfit}: it lacks {name}; another FLUX model's file, or of another number of blocks?"
            )
        if found[name] != shape:
            raise ValueError(f"{unfit}: {name} needs shape {shape}, got {found[name]}")
    stranger = next((name for name in found if name not in wanted), None)
    if stranger is not None:
        raise ValueError(f"{unfit}: it holds {stranger}, which the transformer has no place for")


def _converted(path: Path, found: Mapping[str, tuple[int, ...]], width: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes as diffusers' converter makes them of a file in Black Forest Labs' layout."""
    if "img_in.weight" not in found or not any(name.startswith("double_blocks.") for name in found):
        raise ValueError(f"{path}: not a FLUX transformer: it lacks img_in.weight or double_blocks.*")
    if width != CONVERTER_WIDTH:
        raise ValueError(
            f"{path}: diffusers reads Black Forest Labs' layout at width {CONVERTER_WIDTH} alone, this pipeline's "
            f"transformer has {width}; give the file with diffusers' names"
        )
    left = {name: torch.empty(shape, device="meta") for name, shape in found.items()}
    try:
        made = convert_flux_transformer_checkpoint_to_diffusers(left)
    except KeyError as error:
        raise ValueError(f"{path}: not a whole FLUX transformer: it lacks {error.args[0]}") from error
    except (RuntimeError, IndexError, ValueError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: not the transformer of this pipeline: {first_line}") from error
    return {name: tuple(value.shape) for name, value in (made | left).items()}


def _read(
    path: Path,
    header: FileHeader,
    tensors: Mapping[str, TensorHeader],
    scales: LayerScales,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The weights by name, mapped from the file where they need no scale."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in header.tensors) else ""
    with safe_open(path, framework="pt", device="cpu") as file:

        def read(name: str) -> Tensor:
            value: Tensor = file.get_tensor(prefix + name)
            return value

        return {
            name: scaled(read(name), read(scales.of[name]), dtype) if name in scales.of else read(name)
            for name in tensors
        }
