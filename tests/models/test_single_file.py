"""A transformer from one file: the weights of the folder, and bad files refused before they are read."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file
from torch import Tensor

from divrl_core.config import ModelConfig
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, lora_parameters
from divrl_core.models.single_file import check_single_file
from divrl_core.models.tensor_headers import read_header
from divrl_core.training.preflight import model_problems

from .single_files import PREFIX, fp8_rounded, save, save_gguf, scaled_fp8, to_bfl


@pytest.fixture(scope="module")
def state(tiny_pipeline: Path) -> dict[str, Tensor]:
    """The tiny transformer's weights, with diffusers' names: a narrow one is read from one file under these alone."""
    return load_file(tiny_pipeline / "transformer" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def config(tiny_pipeline: Path) -> dict[str, object]:
    return json.loads((tiny_pipeline / "transformer" / "config.json").read_text())


def weights_of(pipeline: Path, file: Path, dtype: str = "float32") -> dict[str, Tensor]:
    adapter = FluxAdapter.load(str(pipeline), transformer_file=file, dtype=dtype)
    return dict(adapter.transformer.state_dict())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_single_file_gives_the_folders_weights(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor], prefix: str
) -> None:
    file = save(tmp_path / "model.safetensors", state, prefix)
    assert same(weights_of(tiny_pipeline, file), state)


def test_a_whole_checkpoints_text_encoders_and_vae_are_passed_over(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    rest = {"text_encoders.clip_l.x": torch.ones(2), "vae.decoder.up.0.w": torch.ones(3)}
    whole = {PREFIX + name: value for name, value in state.items()} | rest
    file = save(tmp_path / "checkpoint.safetensors", whole)
    assert same(weights_of(tiny_pipeline, file), state)


def test_the_pipelines_own_transformer_weights_are_not_needed(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_pipeline, bare)
    for path in (bare / "transformer").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ValueError, match=r"transformer/ lacks \*\.safetensors"):
        FluxAdapter.load(str(bare))
    file = save(tmp_path / "model.sft", state)
    assert same(weights_of(bare, file), state)


def test_fp8_without_scales_is_read_as_its_numbers(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    cast = {name: value.to(torch.float8_e4m3fn) for name, value in state.items()}
    file = save(tmp_path / "fp8.safetensors", cast)
    expected = {name: value.to(torch.bfloat16) for name, value in cast.items()}
    assert same(weights_of(tiny_pipeline, file, "bfloat16"), expected)


@pytest.mark.parametrize("spelling", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_scaled_fp8_is_multiplied_out(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor], spelling: str, prefix: str
) -> None:
    packed = scaled_fp8(state, spelling)
    name = "transformer_blocks.0.ff.net.2"
    if spelling == "weight_scale":
        text = json.dumps({"format": "float8_e4m3fn"}).encode()
        packed[f"{name}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    read = weights_of(tiny_pipeline, save(tmp_path / "scaled.safetensors", packed, prefix))
    assert same(read, fp8_rounded(state))
    error = (read[f"{name}.weight"] - state[f"{name}.weight"]).abs().max()
    assert 0 < error < 0.07 * state[f"{name}.weight"].abs().max(), (
        "near the weights, not times a forgotten scale"
    )


def test_a_scale_a_row_is_multiplied_out(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    layer = "transformer_blocks.0.ff.net.2"
    weight = state[f"{layer}.weight"]
    scale = weight.abs().amax(dim=1, keepdim=True) / 448
    packed = dict(state) | {
        f"{layer}.weight": (weight / scale).to(torch.float8_e4m3fn),
        f"{layer}.weight_scale": scale,
    }
    read = weights_of(tiny_pipeline, save(tmp_path / "rows.safetensors", packed))
    assert torch.equal(read[f"{layer}.weight"], packed[f"{layer}.weight"].float() * scale)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_a_gguf_file_stays_packed_and_carries_a_lora(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor], kind: str
) -> None:
    file = save_gguf(tmp_path / "model.gguf", state, kind)
    adapter = FluxAdapter.load(str(tiny_pipeline), transformer_file=file)
    layer = adapter.transformer.get_submodule("transformer_blocks.0.attn.to_q")
    assert layer.weight.dtype == torch.uint8 and layer.weight.numel() < 1.1 * 128 * 128
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(0))
    plain = FluxAdapter.load(str(tiny_pipeline)).transformer.get_submodule("transformer_blocks.0.attn.to_q")
    gap = (layer(x) - plain(x)).norm() / plain(x).norm()
    assert 0 < gap < (0.01 if kind == "Q8_0" else 0.2)
    add_lora(adapter.transformer, 2, 4.0, "attention+ffn", seed=0)
    assert all(value.dtype == torch.float32 for value in lora_parameters(adapter.transformer).values())


# Files that are refused, in one line


def refusal(pipeline: Path, file: Path) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        FluxAdapter.load(str(pipeline), transformer_file=file)
    words = str(caught.value)
    assert str(file) in words and "\n" not in words
    return words


def test_files_that_are_no_model_are_refused(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    assert "no such file" in refusal(tiny_pipeline, tmp_path / "none.safetensors")
    assert "is a folder" in refusal(tiny_pipeline, tmp_path)
    text = tmp_path / "text.safetensors"
    text.write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a safetensors file" in refusal(tiny_pipeline, text)
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    assert "not a GGUF file" in refusal(tiny_pipeline, tmp_path / "text.gguf")
    (tmp_path / "model.onnx").write_text("")
    assert ".safetensors or .gguf file is needed" in refusal(tiny_pipeline, tmp_path / "model.onnx")


@pytest.mark.parametrize("ending", [".ckpt", ".pt", ".pth", ".bin", ".PT"])
def test_a_pickle_is_refused_by_its_name_and_never_opened(
    tiny_pipeline: Path, tmp_path: Path, ending: str
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "sprung").write_text, ("boom",))

    torch.save({"x": Trap()}, tmp_path / f"model{ending}")
    assert "can run code" in refusal(tiny_pipeline, tmp_path / f"model{ending}")
    assert not (tmp_path / "sprung").exists()


def test_cut_off_files_are_refused(tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]) -> None:
    file = save(tmp_path / "model.safetensors", state)
    whole = file.stat().st_size
    with file.open("r+b") as stream:
        stream.truncate(whole - 1000)
    assert f"needs {whole} bytes by its header, got {whole - 1000}" in refusal(tiny_pipeline, file)
    packed = save_gguf(tmp_path / "model.gguf", state)
    for length in (packed.stat().st_size - 1000, 300):
        with packed.open("r+b") as stream:
            stream.truncate(length)
        assert "damaged or cut off" in refusal(tiny_pipeline, packed)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["transformer_blocks.0.attn.to_q.lora_A.weight"], "a LoRA, not a model; name it in run.init_lora"),
        (["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"], "a LoRA, not a model"),
        ([f"{PREFIX}input_blocks.0.0.weight", "cond_stage_model.x"], "a Stable Diffusion UNet"),
        ([f"{PREFIX}joint_blocks.0.x"], "a Stable Diffusion 3 transformer"),
        (["encoder.block.0.layer.0.x"], "a T5 text encoder"),
        (["img_in.weight", "double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.x"], "Chroma"),
        (["double_blocks.0.img_attn.qkv.weight.absmax"], "packed weights that diffusers cannot read"),
        (["some.weight"], "not a FLUX transformer"),
    ],
)
def test_another_models_file_is_named(
    tiny_pipeline: Path, tmp_path: Path, names: list[str], words: str
) -> None:
    file = save(tmp_path / "model.safetensors", {name: torch.zeros(2) for name in names})
    assert words in refusal(tiny_pipeline, file)


def test_weights_of_another_shape_or_number_are_refused(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    wider = dict(state) | {"x_embedder.weight": torch.zeros(128, 384)}  # FLUX.1-Fill's
    words = refusal(tiny_pipeline, save(tmp_path / "fill.safetensors", wider))
    assert "x_embedder.weight needs shape (128, 64), got (128, 384)" in words
    more = dict(state) | {"transformer_blocks.1.attn.to_q.weight": torch.zeros(128, 128)}
    words = refusal(tiny_pipeline, save(tmp_path / "more.safetensors", more))
    assert "holds transformer_blocks.1.attn.to_q.weight, which the transformer has no place for" in words
    fewer = {name: value for name, value in state.items() if not name.startswith("single_")}
    assert "not a FLUX transformer" in refusal(tiny_pipeline, save(tmp_path / "fewer.safetensors", fewer))


def test_scales_that_do_not_add_up_are_refused(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    layer = "transformer_blocks.0.ff.net.2"
    packed = scaled_fp8(state)
    lost = {name: value for name, value in packed.items() if name != f"{layer}.scale_weight"}
    assert f"{layer}.weight has no scale" in refusal(tiny_pipeline, save(tmp_path / "a.safetensors", lost))
    stray = dict(state) | {"nothing.scale_weight": torch.tensor(1.0)}
    assert "is the scale of a weight that the file has not" in refusal(
        tiny_pipeline, save(tmp_path / "b.safetensors", stray)
    )
    blocks = dict(packed) | {f"{layer}.scale_weight": torch.ones(4, 4)}
    assert "packed in a way that is not known here" in refusal(
        tiny_pipeline, save(tmp_path / "c.safetensors", blocks)
    )
    four_bits = torch.tensor(list(json.dumps({"format": "nvfp4"}).encode()), dtype=torch.uint8)
    marked = dict(packed) | {f"{layer}.comfy_quant": four_bits}
    assert "is packed as nvfp4" in refusal(tiny_pipeline, save(tmp_path / "d.safetensors", marked))
    told = json.dumps({"layers": {layer: {"format": "mxfp8"}}})
    file = save(tmp_path / "e.safetensors", packed, _quantization_metadata=told)
    assert "is packed as mxfp8" in refusal(tiny_pipeline, file)
    whole_numbers = dict(state) | {f"{layer}.weight": torch.zeros(128, 512, dtype=torch.int8)}
    assert "is of kind I8" in refusal(tiny_pipeline, save(tmp_path / "f.safetensors", whole_numbers))


# Black Forest Labs' layout, from headers alone: at FLUX's own width the weights themselves would be a gigabyte


def header_file(path: Path, state: dict[str, Tensor]) -> Path:
    """A file that says it holds these (meta) weights, and is as long as it says, with holes for numbers."""
    header, end = {}, 0
    for name, value in state.items():
        start, end = end, end + value.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)
    return path


@pytest.fixture(scope="module")
def wide_config(config: dict[str, object]) -> dict[str, object]:
    return config | {"num_attention_heads": 24}


@pytest.fixture(scope="module")
def wide(wide_config: dict[str, object]) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(FluxTransformer2DModel.from_config(wide_config).state_dict())


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_black_forest_labs_names_are_understood(
    tmp_path: Path, wide: dict[str, Tensor], wide_config: dict[str, object], prefix: str
) -> None:
    bfl = {prefix + name: value for name, value in to_bfl(wide).items()}
    check_single_file(header_file(tmp_path / "flux.safetensors", bfl), wide_config)
    assert len(read_header(tmp_path / "flux.safetensors").tensors) == len(bfl)


def test_a_black_forest_labs_file_that_does_not_fit_is_refused(
    tmp_path: Path, wide: dict[str, Tensor], wide_config: dict[str, object], config: dict[str, object]
) -> None:
    bfl = to_bfl(wide)

    def words(state: dict[str, Tensor], settings: dict[str, object] = wide_config) -> str:
        file = header_file(tmp_path / "flux.safetensors", state)
        with pytest.raises(ValueError) as caught:
            check_single_file(file, settings)
        assert "\n" not in str(caught.value) and str(file) in str(caught.value)
        return str(caught.value)

    assert "at width 3072 alone, this pipeline's transformer has 128" in words(bfl, config)
    assert "lacks transformer_blocks.1." in words(bfl, wide_config | {"num_layers": 2})
    unguided = {name: value for name, value in bfl.items() if "guidance" not in name}
    assert "lacks time_text_embed.guidance_embedder" in words(unguided)
    assert "guidance_embedder" in words(bfl, wide_config | {"guidance_embeds": False})
    lost = {name: value for name, value in bfl.items() if name != "double_blocks.0.img_mlp.2.bias"}
    assert "lacks double_blocks.0.img_mlp.2.bias" in words(lost)
    fill = dict(bfl) | {"img_in.weight": torch.empty(3072, 384, device="meta")}
    assert "x_embedder.weight needs shape (3072, 64), got (3072, 384)" in words(fill)


def test_a_run_says_before_it_loads_what_is_wrong_with_the_file(
    tiny_pipeline: Path, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_pipeline, bare)
    for path in (bare / "transformer").glob("*.safetensors"):
        path.unlink()

    def problems(file: Path, model: str = str(bare)) -> list[str]:
        return model_problems(ModelConfig(path=model, transformer_file=str(file)))

    assert not problems(save(tmp_path / "good.safetensors", state))
    [line] = problems(tmp_path / "none.safetensors")
    assert line == f"model.transformer_file: {tmp_path / 'none.safetensors'}: no such file"
    fewer = {name: value for name, value in state.items() if "norm_out" not in name}
    [line] = problems(save(tmp_path / "fewer.safetensors", fewer))
    assert line.startswith("model.transformer_file: ") and "not a FLUX transformer" in line
    lora = save(tmp_path / "lora.safetensors", {"x.lora_A.weight": torch.zeros(1)})
    [line] = problems(lora, "owner/name")
    assert "a LoRA, not a model" in line
    (bare / "transformer" / "config.json").write_text("[")
    [line] = problems(tmp_path / "good.safetensors")
    assert "needed beside model.transformer_file" in line
