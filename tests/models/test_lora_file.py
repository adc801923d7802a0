"""LoRA files against the real diffusers loader: same pictures, one layout, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from divrl_core.models.lora import add_lora, disabled_lora, load_lora_state, lora_parameters, lora_state
from divrl_core.models.lora_apply import check_architecture, continue_from, load_for_inference
from divrl_core.models.lora_export import export_lora
from divrl_core.models.lora_file import read_lora

NAME = "transformer_blocks.0.attn.to_q"


def flux(heads: int = 1, layers: int = 1) -> FluxTransformer2DModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=64,
            num_layers=layers,
            num_single_layers=1,
            attention_head_dim=128,
            num_attention_heads=heads,
            joint_attention_dim=32,
            pooled_projection_dim=16,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        ).eval()


def trained(
    rank: int = 4, alpha: float = 8, targets: str = "attention+ffn", **dims: int
) -> FluxTransformer2DModel:
    """A transformer whose adapter is at its start no more, neither in A nor in B."""
    transformer = flux(**dims)
    add_lora(transformer, rank, alpha, targets, seed=0)
    generator = torch.Generator().manual_seed(1)
    state = lora_state(transformer)
    load_lora_state(
        transformer, {k: 0.1 * torch.randn(w.shape, generator=generator) for k, w in state.items()}
    )
    return transformer


def output(transformer: FluxTransformer2DModel) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return transformer(
        hidden_states=torch.randn(2, 6, 64, generator=generator),
        encoder_hidden_states=torch.randn(2, 4, 32, generator=generator),
        pooled_projections=torch.randn(2, 16, generator=generator),
        timestep=torch.tensor([0.3, 0.8]),
        img_ids=torch.randn(6, 3, generator=generator).round(),
        txt_ids=torch.zeros(4, 3),
        guidance=torch.full((2,), 2.5),
    ).sample


def pipeline(transformer: FluxTransformer2DModel) -> FluxKontextPipeline:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        vae = AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ).eval()
    pipe = FluxKontextPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: FluxKontextPipeline) -> Tensor:
    """Two real Kontext steps at 64 px with a reference picture."""
    generator = torch.Generator().manual_seed(3)
    return pipe(
        image=torch.rand(1, 3, 64, 64, generator=generator),
        prompt_embeds=torch.randn(1, 4, 32, generator=generator),
        pooled_prompt_embeds=torch.randn(1, 16, generator=generator),
        height=64,
        width=64,
        max_area=64 * 64,
        _auto_resize=False,
        num_inference_steps=2,
        guidance_scale=2.5,
        generator=generator,
        output_type="latent",
    ).images


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (4, 4), (5, 7)])
def test_the_kontext_pipeline_loads_the_file_and_gives_what_the_training_model_gives(
    tmp_path: Path, rank: int, alpha: float
) -> None:
    model = trained(rank, alpha)
    path = export_lora(tmp_path / "subject.safetensors", model, rank=rank, alpha=alpha)
    training = latents(pipeline(model))

    loaded = pipeline(flux())
    base = latents(loaded)
    loaded.load_lora_weights(path)
    assert (base - training).abs().max() > 1e-2
    assert (latents(loaded) - training).abs().max() < 1e-5


def test_the_file_holds_one_layout_and_no_alpha(tmp_path: Path) -> None:
    model = trained(4, 8)
    path = export_lora(tmp_path / "subject.safetensors", model, rank=4, alpha=8)
    tensors = load_file(path)
    assert set(tensors) == {f"transformer.{name}" for name in lora_state(model)}
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in tensors)
    state = lora_state(model)
    assert torch.equal(tensors[f"transformer.{NAME}.lora_A.weight"], state[f"{NAME}.lora_A.weight"])
    assert torch.equal(tensors[f"transformer.{NAME}.lora_B.weight"], 2 * state[f"{NAME}.lora_B.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["subject.safetensors"]


def test_the_header_is_what_diffusers_and_lora_managers_read(tmp_path: Path) -> None:
    settings = {"stage": "explore", "lora": {"rank": 4, "alpha": None, "targets": "attention+ffn"}}
    path = export_lora(
        tmp_path / "subject.safetensors",
        trained(4, 8),
        rank=4,
        alpha=8,
        settings=settings,
        metadata={"modelspec.title": "A subject"},
    )
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == "pt"
    assert header["modelspec.sai_model_spec"] == "1.0.1"
    assert header["modelspec.architecture"] == "flux-1-dev/lora"
    assert header["modelspec.implementation"] == "diffusers"
    assert header["modelspec.title"] == "A subject"
    assert header["modelspec.date"].endswith("+00:00")
    assert header["ss_base_model_version"] == "flux1"
    assert header["ss_output_name"] == "subject"
    assert header["ss_network_dim"] == header["ss_network_alpha"] == "4"  # the scale left to apply is 1
    assert "lora_adapter_metadata" not in header  # diffusers would scale by it
    said = json.loads(header["divrl.settings"])
    assert said == {"stage": "explore", "lora": {"rank": 4, "alpha": 8, "targets": "attention+ffn"}}
    assert settings["lora"]["alpha"] is None  # the caller's mapping is not touched
    assert read_lora(path).settings == said


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (4, 1), (8, 8), (2, 64)])
def test_fold_and_unfold_are_exact_where_the_scale_is_a_power_of_two(
    tmp_path: Path, rank: int, alpha: float
) -> None:
    model = trained(rank, alpha)
    lora = read_lora(export_lora(tmp_path / "a.safetensors", model, rank=rank, alpha=alpha))
    assert (lora.rank, lora.alpha) == (rank, alpha)
    again = flux()
    add_lora(again, rank, alpha, "attention+ffn", seed=9)
    assert continue_from(again, lora) == ()
    expected = lora_state(model)
    assert all(torch.equal(weight, expected[name]) for name, weight in lora_state(again).items())


def test_fold_and_unfold_differ_by_one_rounding_at_other_scales(tmp_path: Path) -> None:
    model = trained(5, 7)
    again = flux()
    add_lora(again, 5, 7, "attention+ffn", seed=9)
    continue_from(again, read_lora(export_lora(tmp_path / "a.safetensors", model, rank=5, alpha=7)))
    for name, weight in lora_state(again).items():
        torch.testing.assert_close(weight, lora_state(model)[name], rtol=2**-23, atol=0)


def test_training_goes_on_from_the_file_as_it_does_from_the_run(tmp_path: Path) -> None:
    def train(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
        optimizer = torch.optim.AdamW(list(lora_parameters(transformer).values()), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            output(transformer).square().mean().backward()
            optimizer.step()
        return lora_state(transformer)

    run = trained(4, 8)
    path = export_lora(tmp_path / "a.safetensors", run, rank=4, alpha=8)
    from_file = flux()
    add_lora(from_file, 4, 8, "attention+ffn", seed=9)
    continue_from(from_file, read_lora(path))
    start = lora_state(run)
    went_on, began_again = train(run), train(from_file)
    assert all(torch.equal(went_on[name], began_again[name]) for name in went_on)
    assert not torch.equal(went_on[f"{NAME}.lora_B.weight"], start[f"{NAME}.lora_B.weight"])


def test_a_state_such_as_an_ema_is_exported_like_a_model(tmp_path: Path) -> None:
    model = trained(4, 8)
    one = load_file(export_lora(tmp_path / "a.safetensors", model, rank=4, alpha=8))
    two = load_file(export_lora(tmp_path / "b.safetensors", lora_state(model), rank=4, alpha=8))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_file_is_the_folded_weights_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    model = trained(5, 7)
    lora = read_lora(export_lora(tmp_path / "a.safetensors", model, rank=5, alpha=7, dtype=dtype))
    weight_b = lora_state(model)[f"{NAME}.lora_B.weight"]
    assert torch.equal(lora.tensors[f"{NAME}.lora_B.weight"], (weight_b.double() * 7 / 5).to(dtype))
    assert lora.tensors[f"{NAME}.lora_A.weight"].dtype == dtype


def test_strength_scales_the_effect_and_the_base_stays_within_reach(tmp_path: Path) -> None:
    model = trained(4, 8)
    state = lora_state(model)
    lora = read_lora(export_lora(tmp_path / "a.safetensors", model, rank=4, alpha=8))
    transformer = flux()
    with torch.no_grad():
        base = output(transformer)
        for strength in (1.0, 0.5, -0.25, 0.0):
            load_for_inference(transformer, lora, strength)  # replaces the one before
            b_scaled = {k: w * strength if "lora_B" in k else w for k, w in state.items()}
            load_lora_state(model, b_scaled)
            torch.testing.assert_close(output(transformer), output(model), rtol=0, atol=1e-5)
            with disabled_lora(transformer):
                assert torch.equal(output(transformer), base)
        assert torch.equal(output(transformer), base)  # strength 0
    assert not any(p.requires_grad for n, p in transformer.named_parameters() if "lora_" in n)
    with pytest.raises(ValueError, match="strength must be a finite number"):
        load_for_inference(transformer, lora, float("inf"))


def test_a_second_file_on_other_layers_replaces_the_first(tmp_path: Path) -> None:
    wide = read_lora(export_lora(tmp_path / "wide.safetensors", trained(4, 8), rank=4, alpha=8))
    model = trained(2, 2, targets="attention")
    narrow = read_lora(export_lora(tmp_path / "narrow.safetensors", model, rank=2, alpha=2))
    transformer = flux()
    load_for_inference(transformer, wide)
    load_for_inference(transformer, narrow)
    torch.testing.assert_close(output(transformer), output(model), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dims", "words"),
    [
        ({"heads": 2}, r"\S+ has 128 inputs and 128 outputs in the file, 256 and 256 in this"),
        ({"layers": 0}, r"transformer_blocks\.0\.\S+ is not a linear layer of this transformer"),
    ],
)
def test_a_file_of_another_architecture_is_refused_by_every_door(
    tmp_path: Path, dims: dict[str, int], words: str
) -> None:
    lora = read_lora(export_lora(tmp_path / "a.safetensors", trained(), rank=4, alpha=8))
    other = flux(**dims)
    with pytest.raises(ValueError, match=rf"a\.safetensors: belongs to another architecture: {words}"):
        check_architecture(other, lora)
    with pytest.raises(ValueError, match="belongs to another architecture"):
        load_for_inference(other, lora)
    assert not any("lora_" in name for name, _ in other.named_parameters())
    add_lora(other, 4, 8, "attention+ffn", seed=0)
    with pytest.raises(ValueError, match="belongs to another architecture"):
        continue_from(other, lora)


def test_continuing_says_which_modules_start_fresh_and_refuses_what_the_settings_do_not_train(
    tmp_path: Path,
) -> None:
    narrow = read_lora(export_lora(tmp_path / "n.safetensors", trained(targets="attention"), rank=4, alpha=8))
    transformer = flux()
    add_lora(transformer, 4, 8, "attention+ffn", seed=0)
    fresh = continue_from(transformer, narrow)
    assert len(fresh) == 4 + 2 and "single_transformer_blocks.0.proj_out" in fresh
    assert all(lora_state(transformer)[f"{name}.lora_B.weight"].abs().max() == 0 for name in fresh)
    assert all(lora_state(transformer)[f"{name}.lora_A.weight"].abs().max() > 0 for name in fresh)

    wide = read_lora(export_lora(tmp_path / "w.safetensors", trained(), rank=4, alpha=8))
    transformer = flux()
    add_lora(transformer, 4, 8, "attention", seed=0)
    with pytest.raises(ValueError, match=r"changes \S+proj_mlp, which the settings do not train"):
        continue_from(transformer, wide)


def test_another_rank_is_refused_and_another_alpha_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained(4, 8)
    lora = read_lora(export_lora(tmp_path / "a.safetensors", model, rank=4, alpha=8))
    transformer = flux()
    add_lora(transformer, 2, 4, "attention+ffn", seed=0)
    with pytest.raises(ValueError, match=r"has rank 4, the settings say 2: set lora\.rank=4"):
        continue_from(transformer, lora)
    transformer = flux()
    add_lora(transformer, 4, 16, "attention+ffn", seed=0)
    continue_from(transformer, lora)
    assert "trained with alpha 8, this run uses 16" in caplog.text
    torch.testing.assert_close(output(transformer), output(model), rtol=0, atol=1e-6)


def test_modules_of_several_ranks_are_filled_up_without_changing_the_effect(tmp_path: Path) -> None:
    path = export_lora(tmp_path / "a.safetensors", trained(4, 8), rank=4, alpha=8)
    tensors = load_file(path)
    narrow_a = tensors[f"transformer.{NAME}.lora_A.weight"][:2].clone()
    narrow_b = tensors[f"transformer.{NAME}.lora_B.weight"][:, :2].clone()
    changed = {f"transformer.{NAME}.lora_A.weight": narrow_a, f"transformer.{NAME}.lora_B.weight": narrow_b}
    save_file(tensors | changed, tmp_path / "mixed.safetensors")

    lora = read_lora(tmp_path / "mixed.safetensors")
    assert (lora.rank, lora.alpha) == (4, 4)  # no header of ours: the file as it stands
    weight_a, weight_b = (lora.tensors[f"{NAME}.lora_{side}.weight"] for side in "AB")
    assert weight_a.shape == (4, 128) and weight_b.shape == (128, 4)
    torch.testing.assert_close(weight_b @ weight_a, narrow_b @ narrow_a)


A, B = torch.zeros(2, 8), torch.zeros(8, 2)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"base_model.model.{NAME}.lora_A.weight": A}, "raw PEFT keys .*`divrl-train convert`"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": A}, "kohya keys"),
        ({"lora_te1_text_model.lora_down.weight": A}, "kohya keys of a text encoder"),
        (
            {f"diffusion_model.{NAME}.lora_A.weight": A},
            "prefix 'diffusion_model.'.*need the prefix 'transformer.'",
        ),
        ({f"{NAME}.lora_A.weight": A}, "keys without a prefix.*need the prefix 'transformer.'"),
        ({"double_blocks.0.processor.qkv_lora1.down.weight": A}, "Black Forest Labs' module names"),
        ({"text_encoder.layers.0.lora_A.weight": A}, "text encoder"),
        ({f"transformer.{NAME}.alpha": torch.tensor(8.0)}, "states a scale apart"),
        ({f"transformer.{NAME}.lora_magnitude_vector.weight": A}, "a DoRA"),
        ({f"transformer.{NAME}.lora_B.bias": torch.zeros(8)}, "is not a LoRA layer's"),
        ({"x_embedder.weight": A}, "is not a LoRA layer's"),
        ({}, "holds no LoRA weights"),
        ({f"transformer.{NAME}.lora_A.weight": A}, "to_q.lora_B.weight is missing"),
        (
            {f"transformer.{NAME}.lora_A.weight": A, f"transformer.{NAME}.lora_B.weight": torch.zeros(8, 3)},
            r"got \(2, 8\) and \(8, 3\)",
        ),
        (
            {f"transformer.{NAME}.lora_A.weight": A, f"transformer.{NAME}.lora_B.weight": B / 0},
            "not finite",
        ),
    ],
)
def test_a_file_in_another_layout_is_refused_by_its_name(
    tmp_path: Path, tensors: dict[str, Tensor], words: str
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{words}"):
        read_lora(tmp_path / "a.safetensors")


def test_what_is_no_safetensors_file_is_refused_by_its_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such LoRA file"):
        read_lora(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"this is a folder$"):
        read_lora(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="raw PEFT folder: convert it with `divrl-train convert`"):
        read_lora(tmp_path)
    torch.save({"a": 1}, tmp_path / "a.bin")
    with pytest.raises(ValueError, match="a pickle can run code"):
        read_lora(tmp_path / "a.bin")
    for content in (b"", b"no safetensors at all", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"):
        (tmp_path / "a.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            read_lora(tmp_path / "a.safetensors")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = export_lora(tmp_path / "a.safetensors", trained(), rank=4, alpha=8)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read_lora(path)


@pytest.mark.parametrize(
    ("stated", "is_refused"),
    [
        ({"transformer.r": 4, "transformer.lora_alpha": 8}, True),
        ({"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.use_rslora": True}, True),
        ({"transformer.r": 4, "transformer.lora_alpha": 4, "transformer.rank_pattern": {}}, False),
    ],
)
def test_a_scale_stated_in_diffusers_own_header_is_refused_unless_it_is_one(
    tmp_path: Path, stated: dict[str, object], is_refused: bool
) -> None:
    tensors = load_file(export_lora(tmp_path / "a.safetensors", trained(), rank=4, alpha=8))
    save_file(tensors, tmp_path / "b.safetensors", metadata={"lora_adapter_metadata": json.dumps(stated)})
    if is_refused:
        with pytest.raises(ValueError, match="states a scale of its own"):
            read_lora(tmp_path / "b.safetensors")
    else:
        assert read_lora(tmp_path / "b.safetensors").rank == 4


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a mapping"),
        ('{"lora": 3}', "is not a mapping"),
        ('{"lora": {"alpha": -1}}', "lora.alpha must be a positive number"),
        ('{"lora": {"alpha": "8"}}', "lora.alpha must be a positive number"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, said: str, words: str) -> None:
    tensors = load_file(export_lora(tmp_path / "a.safetensors", trained(), rank=4, alpha=8))
    save_file(tensors, tmp_path / "b.safetensors", metadata={"divrl.settings": said})
    with pytest.raises(ValueError, match=words):
        read_lora(tmp_path / "b.safetensors")


def test_an_export_that_does_not_add_up_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    model = trained(4, 8)
    path = export_lora(tmp_path / "a.safetensors", model, rank=4, alpha=8)
    before = path.read_bytes()
    broken = lora_state(model)
    broken[f"{NAME}.lora_B.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"to_q\.lora_B\.weight is not finite in torch.float32"):
        export_lora(path, broken, rank=4, alpha=8)
    with pytest.raises(ValueError, match="has rank 4 and alpha 8, the export was given rank 4 and alpha 4"):
        export_lora(path, model, rank=4, alpha=4)
    with pytest.raises(ValueError, match="to_q has rank 4, expected 8"):
        export_lora(path, lora_state(model), rank=8, alpha=8)
    with pytest.raises(ValueError, match=r"must be named \*\.safetensors"):
        export_lora(tmp_path / "a.bin", model, rank=4, alpha=8)
    with pytest.raises(ValueError, match="'lora_adapter_metadata' is the export's own"):
        export_lora(path, model, rank=4, alpha=8, metadata={"lora_adapter_metadata": "{}"})
    with pytest.raises(ValueError, match="must be float32, bfloat16 or float16"):
        export_lora(path, model, rank=4, alpha=8, dtype=torch.float64)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_write_that_fails_halfway_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(4, 8)
    path = export_lora(tmp_path / "a.safetensors", model, rank=4, alpha=8)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        export_lora(path, model, rank=4, alpha=8, metadata={"modelspec.title": "other"})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
