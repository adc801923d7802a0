"""Writes transformers as artists own them: Black Forest Labs' names, ComfyUI's scaled fp8, GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import gguf
import torch
from gguf.quants import quantize
from safetensors.torch import save_file
from torch import Tensor

PREFIX = "model.diffusion_model."
_OUTSIDE = {
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "txt_in": "context_embedder",
    "img_in": "x_embedder",
    "final_layer.linear": "proj_out",
}
_DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
_SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
}
_DOUBLE_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}
_SINGLE_NORMS = {"norm.query_norm": "attn.norm_q", "norm.key_norm": "attn.norm_k"}


def to_bfl(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Diffusers' weights under Black Forest Labs' names: layers fused, the final shift before its scale."""
    made: dict[str, Tensor] = {}
    for kind in ("weight", "bias"):
        for theirs, ours in _OUTSIDE.items():
            if f"{ours}.{kind}" in state:
                made[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        scale, shift = state[f"norm_out.linear.{kind}"].chunk(2)
        made[f"final_layer.adaLN_modulation.1.{kind}"] = torch.cat([shift, scale])
    for theirs, ours, layers, norms in (
        ("double_blocks", "transformer_blocks", _DOUBLE, _DOUBLE_NORMS),
        ("single_blocks", "single_transformer_blocks", _SINGLE, _SINGLE_NORMS),
    ):
        for number in sorted({int(name.split(".")[1]) for name in state if name.startswith(f"{ours}.")}):
            for name, parts in layers.items():
                for kind in ("weight", "bias"):
                    pieces = [state[f"{ours}.{number}.{part}.{kind}"] for part in parts]
                    made[f"{theirs}.{number}.{name}.{kind}"] = torch.cat(pieces)
            for name, part in norms.items():
                made[f"{theirs}.{number}.{name}.scale"] = state[f"{ours}.{number}.{part}.weight"]
    return made


def scaled_fp8(state: Mapping[str, Tensor], spelling: str = "scale_weight") -> dict[str, Tensor]:
    """ComfyUI's scaled fp8 of the 2-d weights, each with a scale of its own (a power of two) beside it."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if value.ndim != 2:
            made[name] = value
            continue
        layer = name.removesuffix(".weight")
        scale = torch.tensor(2.0) ** torch.ceil(torch.log2(value.float().abs().max() / 448))
        made[name] = (value.float() / scale).to(torch.float8_e4m3fn)
        made[f"{layer}.{spelling}"] = scale if spelling == "scale_weight" else scale.reshape(1)
        made[f"{layer}.{'scale_input' if spelling == 'scale_weight' else 'input_scale'}"] = torch.tensor(7.0)
    if spelling == "scale_weight":
        made["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return made


def fp8_rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The numbers that `scaled_fp8` keeps of the weights, in their own dtype."""
    packed = scaled_fp8(state)
    return {
        name: (packed[name].float() * packed[f"{name.removesuffix('.weight')}.scale_weight"]).to(value.dtype)
        if value.ndim == 2
        else value
        for name, value in state.items()
    }


def save(path: Path, state: Mapping[str, Tensor], prefix: str = "", **metadata: str) -> Path:
    """A .safetensors file of the weights, each name with the prefix."""
    save_file({prefix + name: value.contiguous() for name, value in state.items()}, path, metadata=metadata)
    return path


def save_gguf(path: Path, state: Mapping[str, Tensor], kind: str = "Q8_0") -> Path:
    """A .gguf file: matrices whose rows divide into blocks in that kind, everything else in float32."""
    quantized = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[quantized][0]
    writer = gguf.GGUFWriter(str(path), arch="flux")
    for name, value in state.items():
        numbers = value.float().numpy()
        if value.ndim == 2 and value.shape[1] % block == 0:
            writer.add_tensor(name, quantize(numbers, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
