"""Raw PEFT folders, made by the real peft, converted: the same effect to the last bit, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from divrl_core.models.lora import add_lora
from divrl_core.models.lora_apply import continue_from, load_for_inference
from divrl_core.models.lora_convert import convert_peft_folder

# The 13 names of the public configuration; "proj_out" of the single blocks is not among them.
PUBLIC_TARGETS = [
    "attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "attn.add_q_proj",
    "attn.add_v_proj", "attn.to_add_out", "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj",
    "ff_context.net.2", "proj_mlp",
]  # fmt: skip


def flux() -> FluxTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=1,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        ).eval()


def output(transformer: torch.nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        return transformer(
            hidden_states=torch.randn(2, 6, 64, generator=generator),
            encoder_hidden_states=torch.randn(2, 4, 32, generator=generator),
            pooled_projections=torch.randn(2, 16, generator=generator),
            timestep=torch.tensor([0.3, 0.8]),
            img_ids=torch.randn(6, 3, generator=generator).round(),
            txt_ids=torch.zeros(4, 3),
            guidance=torch.full((2,), 2.5),
        ).sample


def peft_folder(folder: Path, dtype: torch.dtype = torch.float32, **settings: Any) -> PeftModel:
    """A folder as peft itself saves it, and the model that it came from."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": PUBLIC_TARGETS, **settings}
    model = get_peft_model(flux(), LoraConfig(**config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
                weight.data = weight.data.to(dtype)
    model.save_pretrained(folder)
    return model.eval()


def deltas(model: PeftModel) -> dict[str, Tensor]:
    """peft's own word on what it adds to each layer's weight."""
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default")
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_a_raw_peft_folder_is_converted_exactly(tmp_path: Path) -> None:
    model = peft_folder(tmp_path / "raw")
    lora = convert_peft_folder(tmp_path / "raw", tmp_path / "out.safetensors")

    raw = load_file(tmp_path / "raw" / "adapter_model.safetensors")
    written = load_file(tmp_path / "out.safetensors")
    assert len(written) == len(raw) == 2 * (12 + 4)  # a single block's proj_out may be missing
    for key, weight in raw.items():
        scale = 2 if "lora_B" in key else 1
        assert torch.equal(written[key.replace("base_model.model.", "transformer.")], scale * weight)

    transformer = flux()
    load_for_inference(transformer, lora)
    assert (output(model) - output(flux())).abs().max() > 1e-2
    assert (output(transformer) - output(model)).abs().max() == 0.0
    assert (lora.rank, lora.alpha) == (4, 8)
    with safe_open(tmp_path / "out.safetensors", framework="pt") as file:
        header = file.metadata()
    assert header["ss_network_alpha"] == "4"
    assert json.loads(header["divrl.converted_from_peft"])["lora_alpha"] == 8
    assert lora.settings == {"lora": {"rank": 4, "alpha": 8}}  # what a run can take over, nothing else


def test_a_converted_file_can_be_trained_on(tmp_path: Path) -> None:
    model = peft_folder(tmp_path / "raw")
    lora = convert_peft_folder(tmp_path / "raw", tmp_path / "out.safetensors")
    transformer = flux()
    add_lora(transformer, lora.rank, lora.alpha, "attention+ffn", seed=0)
    assert continue_from(transformer, lora) == ("single_transformer_blocks.0.proj_out",)
    assert (output(transformer) - output(model)).abs().max() == 0.0


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"attn.to_q": 2, "ff.net.2": 6}},
        {"alpha_pattern": {"attn.to_q": 3, "proj_mlp": 16}},
        {"rank_pattern": {"to_v": 2, "to_k": 8}, "alpha_pattern": {r"^transformer_blocks.0.attn.to_v": 5}},
        {"use_rslora": True},
        {"use_rslora": True, "rank_pattern": {"to_v": 2}, "alpha_pattern": {"to_k": 5}},
        {"lora_alpha": 7, "r": 5, "init_lora_weights": "gaussian"},
    ],
)
def test_ranks_and_scales_by_module_are_obeyed_as_peft_does(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = peft_folder(tmp_path / "raw", **settings)
    lora = convert_peft_folder(tmp_path / "raw", tmp_path / "out.safetensors")
    expected = deltas(model)
    assert set(lora.modules) == set(expected)
    for name, delta in expected.items():
        weight_a, weight_b = (lora.tensors[f"{name}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(weight_b @ weight_a, delta, rtol=1e-5, atol=1e-7)
    transformer = flux()
    load_for_inference(transformer, lora)
    assert (output(transformer) - output(model)).abs().max() < 1e-5


def test_weights_keep_their_dtype_where_the_fold_is_exact_in_it(tmp_path: Path) -> None:
    peft_folder(tmp_path / "even", dtype=torch.bfloat16)
    even = convert_peft_folder(tmp_path / "even", tmp_path / "even.safetensors")
    assert {weight.dtype for weight in even.tensors.values()} == {torch.bfloat16}
    peft_folder(tmp_path / "odd", dtype=torch.bfloat16, lora_alpha=7)
    odd = convert_peft_folder(tmp_path / "odd", tmp_path / "odd.safetensors")
    assert {weight.dtype for weight in odd.tensors.values()} == {torch.float32}
    asked = convert_peft_folder(tmp_path / "odd", tmp_path / "half.safetensors", dtype=torch.float16)
    assert {weight.dtype for weight in asked.tensors.values()} == {torch.float16}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"use_dora": True}, "use_dora is set: DoRA keeps magnitudes"),
        ({"lora_bias": True}, "lora_bias is set: it holds biases"),
        ({"bias": "lora_only"}, "bias='lora_only': trained biases are dropped"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base model"),
        ({"modules_to_save": ["norm_out"]}, "modules_to_save is set: it replaces whole modules"),
    ],
)
def test_adapters_that_the_layout_cannot_hold_are_refused_with_the_reason(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    peft_folder(tmp_path / "raw", **settings)
    with pytest.raises(ValueError, match=rf"adapter_config\.json: {words}"):
        convert_peft_folder(tmp_path / "raw", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_that_is_not_whole_is_refused_by_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        convert_peft_folder(tmp_path / "absent", out)
    raw = tmp_path / "run" / "lora"
    peft_folder(raw)
    with pytest.raises(ValueError, match="a PEFT folder is needed"):
        convert_peft_folder(raw / "adapter_model.safetensors", out)
    with pytest.raises(FileNotFoundError, match=r"there is one in .*lora: give that folder"):
        convert_peft_folder(tmp_path / "run", out)
    (raw / "adapter_model.safetensors").rename(raw / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors: missing"):
        convert_peft_folder(raw, out)
    torch.save({}, raw / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin: a pickle can run code.*safe_serialization"):
        convert_peft_folder(raw, out)
    (raw / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        convert_peft_folder(raw, out)
    (raw / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json: not JSON"):
        convert_peft_folder(raw, out)
    (raw / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(ValueError, match="peft_type must be LORA, got 'LOHA'"):
        convert_peft_folder(raw, out)
    (raw / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    with pytest.raises(ValueError, match="lora_alpha must be a positive number, got None"):
        convert_peft_folder(raw, out)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("transformer.x_embedder.lora_A.weight", "not a raw PEFT key"),
        ("base_model.model.x_embedder.lora_A.bias", "neither lora_A.weight nor lora_B.weight"),
        ("base_model.model.down_blocks.0.to_q.lora_A.weight", "not a layer of a FLUX transformer"),
        ("base_model.model.x_embedder.lora_A.weight", "x_embedder.lora_B.weight is missing"),
    ],
)
def test_keys_that_do_not_belong_are_refused_by_name(tmp_path: Path, key: str, words: str) -> None:
    raw = tmp_path / "raw"
    peft_folder(raw)
    tensors = load_file(raw / "adapter_model.safetensors")
    save_file(tensors | {key: torch.zeros(4, 64)}, raw / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=words):
        convert_peft_folder(raw, tmp_path / "out.safetensors")
