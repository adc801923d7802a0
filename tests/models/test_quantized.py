"""A base in 8 or 4 bits with a LoRA beside it: what is packed, the laws of training, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn

from divrl_core.config import ModelConfig, TrainConfig
from divrl_core.models.base_options import QUANTIZATIONS, BaseOptions
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import (
    REFERENCE,
    add_lora,
    disabled_lora,
    freeze_reference,
    lora_parameters,
    target_modules,
    using_adapter,
)
from divrl_core.models.lora_apply import check_architecture, continue_from, load_for_inference
from divrl_core.models.lora_export import export_lora
from divrl_core.models.lora_file import read_lora
from divrl_core.models.quantized import quantized_linears, try_kind
from divrl_core.training.preflight import base_problems

from .held_base import gradient, moved_lora, velocity

KINDS = [kind for kind in QUANTIZATIONS if kind != "none"]
CPU = torch.device("cpu")


def adapter_of(pipeline: Path, kind: str, dtype: str = "bfloat16") -> FluxAdapter:
    return FluxAdapter.load(str(pipeline), dtype=dtype, quantization=kind)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_base_keeps_the_laws_of_training(tiny_pipeline: Path, kind: str, dtype: str) -> None:
    adapter = adapter_of(tiny_pipeline, kind, dtype)
    with torch.no_grad():
        base = velocity(adapter)
    add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=1)
    with torch.no_grad():
        assert torch.equal(velocity(adapter), base), "a fresh LoRA changes nothing"
    moved_lora(adapter.transformer)
    with torch.no_grad():
        rollout = velocity(adapter)
        with disabled_lora(adapter.transformer):
            assert torch.equal(velocity(adapter), base)
    assert (rollout - base).abs().max() > 1e-3
    trained, plain = gradient(adapter)
    adapter.enable_gradient_checkpointing()
    recomputed, checkpointed = gradient(adapter)
    assert torch.equal(trained, rollout) and torch.equal(recomputed, rollout), "the ratio is exactly 1"
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert all(value.dtype == torch.float32 for value in lora_parameters(adapter.transformer).values())
    freeze_reference(adapter.transformer)
    with torch.no_grad(), using_adapter(adapter.transformer, REFERENCE):
        assert torch.equal(velocity(adapter), rollout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_packed_base_answers_and_learns_nearly_as_the_plain_one(tiny_pipeline: Path, kind: str) -> None:
    packed, plain = adapter_of(tiny_pipeline, kind, "float32"), adapter_of(tiny_pipeline, "none", "float32")
    for adapter in (packed, plain):
        add_lora(adapter.transformer, 4, 8.0, "attention+ffn", seed=1)
        moved_lora(adapter.transformer)
    (v, gradients), (expected, true_gradients) = gradient(packed), gradient(plain)
    assert 0 < (v - expected).norm() / expected.norm() < (0.15 if kind == "nf4" else 0.05)
    flat, true = (torch.cat([value.flatten() for value in g.values()]) for g in (gradients, true_gradients))
    assert torch.cosine_similarity(flat, true, dim=0) > (0.97 if kind == "nf4" else 0.99)


def storage_bytes(tensor: Tensor) -> int:
    """Bytes a tensor takes, those inside torchao's classes and beside bitsandbytes' weights included."""
    if hasattr(tensor, "__tensor_flatten__"):
        inner, _ = tensor.__tensor_flatten__()
        return sum(storage_bytes(getattr(tensor, name)) for name in inner)
    beside = [getattr(tensor, "SCB", None)]
    state = getattr(tensor, "quant_state", None)
    beside += [] if state is None else [state.absmax, state.code]
    extra = sum(value.numel() * value.element_size() for value in beside if value is not None)
    return tensor.numel() * tensor.element_size() + extra


def test_a_packed_weight_takes_the_bytes_of_its_format(tiny_pipeline: Path) -> None:
    name, (rows, columns) = "transformer_blocks.0.ff.net.2", (128, 512)
    found = {}
    for kind in ["none", *KINDS]:
        transformer = adapter_of(tiny_pipeline, kind).transformer
        found[kind] = storage_bytes(transformer.get_submodule(name).weight)
    numbers = rows * columns
    assert found["none"] == numbers * 2
    assert found["fp8"] == numbers
    assert found["int8"] == numbers + rows * 4
    assert found["nf4"] == numbers // 2 + numbers // 64 * 4 + 16 * 4
    assert numbers + rows * 4 <= found["torchao_int8"] <= numbers + rows * 5


@pytest.mark.parametrize("kind", KINDS)
def test_embedders_norms_and_the_last_layer_stay_in_the_models_dtype(tiny_pipeline: Path, kind: str) -> None:
    transformer = adapter_of(tiny_pipeline, kind).transformer
    packed = set(quantized_linears(transformer, kind))
    with torch.device("meta"):
        meta = FluxTransformer2DModel.from_config(dict(transformer.config))
    assert packed == set(quantized_linears(meta, kind))
    assert set(target_modules(transformer, "attention+ffn")) <= packed
    assert target_modules(transformer, "attention+ffn") == target_modules(meta, "attention+ffn")
    for name, module in transformer.named_modules():
        for parameter in module.parameters(recurse=False):
            assert not parameter.requires_grad
            if name not in packed:
                assert parameter.dtype == torch.bfloat16, name
    unpacked = {name for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)} - packed
    outside = ("proj_out", "x_embedder", "context_embedder", "time_text_embed", "norm_out")
    assert {name for name in unpacked if not name.startswith(outside)} == (
        {name for name in unpacked if ".norm" in name} if kind == "fp8" else set()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_lora_file_does_not_know_what_its_base_was_held_in(
    tiny_pipeline: Path, tmp_path: Path, kind: str
) -> None:
    files = []
    for held in ("none", kind):
        transformer = adapter_of(tiny_pipeline, held).transformer
        add_lora(transformer, 4, 8.0, "attention+ffn+modulation", seed=1)
        moved_lora(transformer)
        file = tmp_path / f"{held}.safetensors"
        export_lora(file, transformer, rank=4, alpha=8)
        files.append(read_lora(file))
    plain, packed = files
    assert plain.tensors.keys() == packed.tensors.keys()
    assert all(torch.equal(plain.tensors[name], packed.tensors[name]) for name in plain.tensors)
    other = adapter_of(tiny_pipeline, kind)
    check_architecture(other.transformer, plain)
    load_for_inference(other.transformer, plain)
    add_lora(other.transformer, 4, 8.0, "attention+ffn+modulation", seed=2)
    continue_from(other.transformer, plain)
    with torch.no_grad():
        assert torch.isfinite(velocity(other)).all()


def test_packing_needs_no_second_copy_of_the_file(tiny_pipeline: Path) -> None:
    """The largest tensor made while loading is one layer, not the model."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            made = func(*args, **(kwargs or {}))
            for value in tree_leaves(made):
                if isinstance(value, Tensor) and value.device.type != "meta" and func.__name__ != "view":
                    self.bytes = max(self.bytes, value.untyped_storage().nbytes())
            return made

    adapter = adapter_of(tiny_pipeline, "fp8")
    with Largest() as seen:
        _ = adapter.transformer
    whole = (tiny_pipeline / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert 0 < seen.bytes < whole / 4


# What cannot be had


def test_an_unknown_kind_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"model\.quantization must be one of none, fp8, int8, nf4"):
        BaseOptions(quantization="int4")
    assert not BaseOptions(quantization="nf4").missing_packages
    monkeypatch.setattr("divrl_core.models.base_options.find_spec", lambda name: None)
    line = BaseOptions(quantization="nf4").missing_packages
    assert line == [
        "model.quantization=nf4 needs the package bitsandbytes: pip install bitsandbytes (or divrl[quantization])"
    ]
    line = BaseOptions(transformer_file=Path("a.gguf")).missing_packages
    assert line == [
        "model.transformer_file=a.gguf needs the package gguf: pip install gguf (or divrl[quantization])"
    ]
    compiled = ModelConfig(quantization="fp8", compile=True)
    assert base_problems(compiled, None) == [
        "model.compile does not go with model.quantization=fp8; take model.compile=false, or "
        "model.quantization=none or nf4"
    ]
    model = ModelConfig(quantization="torchao_int8")
    assert "needs the package torchao" in base_problems(model, None)[0]
    assert TrainConfig.explore(model=model).model.quantization == "torchao_int8"


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_device_cannot_do_is_said_before_a_model_is_read(kind: str) -> None:
    with pytest.raises(
        ValueError, match=rf"model\.quantization={kind} does not work here on meta in bfloat16: "
    ):
        try_kind(kind, dtype=torch.bfloat16, device=torch.device("meta"))
    try_kind(kind, dtype=torch.bfloat16, device=CPU)
