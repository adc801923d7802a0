"""The Kontext adapter against diffusers' own pipeline, and the laws that training rests on."""

from __future__ import annotations

import gc
import logging
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
)
from torch import Tensor

from divrl_core.models.conditioning import Conditioning
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.lora import add_lora, load_lora_state, lora_parameters, lora_state
from divrl_core.models.pocket_parts import TEXT_TOKENS
from divrl_core.models.shift import ScheduleShift

PROMPTS = ["a toy fox on a blue floor", "a robot in the snow"]
HEIGHT, WIDTH = 64, 96
GUIDANCE = 2.5


@pytest.fixture(scope="module")
def adapter(tiny_pipeline: Path) -> FluxAdapter:
    return FluxAdapter.load(str(tiny_pipeline))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pictures(count: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 3) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def two(adapter: FluxAdapter) -> Conditioning:
    return adapter.encode(PROMPTS, pictures(2))


def velocity(adapter: FluxAdapter, x_t: Tensor, given: Conditioning, t: float | Tensor = 0.7) -> Tensor:
    with torch.no_grad():
        return adapter.velocity(x_t, t, given, adapter.target_ids(HEIGHT, WIDTH), GUIDANCE)


# Agreement with diffusers


def pipeline_call(folder: Path, references: Tensor, noise: Tensor, steps: int, output: str) -> Tensor:
    pipeline = FluxKontextPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    pipeline.text_encoder.eval(), pipeline.text_encoder_2.eval()
    return pipeline(
        image=references,
        prompt=PROMPTS,
        height=HEIGHT,
        width=WIDTH,
        max_area=WIDTH * HEIGHT,
        _auto_resize=False,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        latents=noise,
        output_type=output,
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
    ).images


@pytest.mark.parametrize("reference_size", [(HEIGHT, WIDTH), (48, 32)])
def test_a_sample_equals_diffusers_kontext_pipeline(
    tiny_pipeline: Path, adapter: FluxAdapter, reference_size: tuple[int, int]
) -> None:
    references = pictures(2, *reference_size)
    noise = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    ours = adapter.sample(
        adapter.encode(PROMPTS, references), noise, height=HEIGHT, width=WIDTH, steps=4, guidance=GUIDANCE
    )
    theirs = pipeline_call(tiny_pipeline, references, noise, 4, "latent")
    assert theirs.std() > 0.1
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


def test_the_decoded_picture_equals_diffusers_kontext_pipeline(
    tiny_pipeline: Path, adapter: FluxAdapter
) -> None:
    noise = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    tokens = adapter.sample(
        adapter.encode(PROMPTS, pictures(2)), noise, height=HEIGHT, width=WIDTH, steps=2, guidance=GUIDANCE
    )
    ours = adapter.decode(tokens, HEIGHT, WIDTH, micro_batch=1)
    theirs = pipeline_call(tiny_pipeline, pictures(2), noise, 2, "pt")
    assert ours.shape == (2, 3, HEIGHT, WIDTH) and ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.fixture
def other_pipeline(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """The tiny pipeline with a full AutoencoderKL, no guidance embedding and a static shift."""
    folder = Path(shutil.copytree(tiny_pipeline, tmp_path / "other"))
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.random.fork_rng():
        torch.manual_seed(4)
        AutoencoderKL(
            **blocks,
            block_out_channels=(8, 8, 8, 8),
            norm_num_groups=4,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).save_pretrained(folder / "vae")
        FluxTransformer2DModel(
            num_layers=1,
            num_single_layers=1,
            num_attention_heads=1,
            joint_attention_dim=128,
            pooled_projection_dim=64,
            guidance_embeds=False,
        ).save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("AutoencoderTiny", "AutoencoderKL"))
    return folder


def test_another_vae_no_guidance_and_a_static_shift_equal_diffusers_too(other_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(other_pipeline))
    noise = randn(2, *adapter.latent_shape(HEIGHT, WIDTH))
    tokens = adapter.sample(
        adapter.encode(PROMPTS, pictures(2)), noise, height=HEIGHT, width=WIDTH, steps=4, guidance=GUIDANCE
    )
    theirs = pipeline_call(other_pipeline, pictures(2), noise, 4, "latent")
    assert torch.allclose(tokens, theirs, atol=1e-5, rtol=0)
    pixels = pipeline_call(other_pipeline, pictures(2), noise, 4, "pt")
    assert torch.allclose(adapter.decode(tokens, HEIGHT, WIDTH), pixels, atol=1e-5, rtol=0)


def test_a_sample_in_micro_batches_equals_one_batch(adapter: FluxAdapter, two: Conditioning) -> None:
    noise = randn(4, *adapter.latent_shape(HEIGHT, WIDTH))
    size = {"height": HEIGHT, "width": WIDTH, "steps": 3, "guidance": GUIDANCE}
    whole = adapter.sample(two.repeat(2), noise, micro_batch=4, **size)  # type: ignore[arg-type]
    parts = adapter.sample(two.repeat(2), noise, micro_batch=3, **size)  # type: ignore[arg-type]
    assert torch.allclose(whole, parts, atol=1e-5, rtol=0)


def test_the_times_at_512_px_in_six_steps_are_kontexts(adapter: FluxAdapter) -> None:
    expected = [1, 0.9037, 0.7897, 0.6525, 0.4842, 0.2730, 0]
    assert adapter.sigmas(6, 512, 512).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dynamic_shifting": True, "base_shift": 0.3, "max_shift": 2.0, "base_image_seq_len": 100},
        {"use_dynamic_shifting": False, "shift": 3.0},
    ],
)
def test_the_times_are_the_schedulers_own_for_either_kind_of_shift(
    settings: dict[str, float], tiny_pipeline: Path, tmp_path: Path
) -> None:
    from diffusers.pipelines.flux.pipeline_flux_kontext import calculate_shift

    from divrl_core.models.hub import PipelineFolder

    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.save_pretrained(tmp_path / "scheduler")
    mu = calculate_shift(
        600,
        scheduler.config["base_image_seq_len"],
        scheduler.config["max_image_seq_len"],
        scheduler.config["base_shift"],
        scheduler.config["max_shift"],
    )
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 7, 7).tolist(), mu=mu)
    ours = ScheduleShift.read(PipelineFolder(path=tmp_path, classes={}, image_size_px=64)).sigmas(7, 600)
    assert ours.tolist() == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)


# velocity()


def test_equal_inputs_give_equal_bits(adapter: FluxAdapter, two: Conditioning) -> None:
    x_t = randn(2, 24, 64)
    assert torch.equal(velocity(adapter, x_t, two), velocity(adapter, x_t, two))


def test_a_permutation_of_the_batch_permutes_the_result_exactly(
    adapter: FluxAdapter, two: Conditioning
) -> None:
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    given, x_t = two.repeat(3), randn(6, 24, 64)
    permuted = velocity(adapter, x_t[order], given.select(order))
    assert torch.equal(permuted, velocity(adapter, x_t, given)[order])


def test_gradients_do_not_change_the_bits(adapter: FluxAdapter, two: Conditioning) -> None:
    x_t = randn(2, 24, 64)
    rollout = velocity(adapter, x_t, two)
    training = adapter.velocity(x_t.requires_grad_(), 0.7, two, adapter.target_ids(HEIGHT, WIDTH), GUIDANCE)
    assert training.requires_grad
    assert torch.equal(rollout, training.detach())


def test_every_input_matters(adapter: FluxAdapter, two: Conditioning) -> None:
    x_t, swapped = randn(2, 24, 64), two.select([1, 0])
    base = velocity(adapter, x_t, two)
    for name in ("prompt_embeds", "pooled", "reference_tokens"):
        other = Conditioning(**{**vars(two), name: getattr(swapped, name)})
        assert (velocity(adapter, x_t, other) - base).abs().max() > 1e-6, name
    assert (velocity(adapter, x_t, two, t=0.3) - base).abs().max() > 1e-4
    with torch.no_grad():
        guided = adapter.velocity(x_t, 0.7, two, adapter.target_ids(HEIGHT, WIDTH), 5.0)
    assert (guided - base).abs().max() > 1e-4


def test_a_time_for_each_sample_equals_the_samples_by_themselves(
    adapter: FluxAdapter, two: Conditioning
) -> None:
    x_t = randn(2, 24, 64)
    both = velocity(adapter, x_t, two, t=torch.tensor([0.2, 0.9]))
    assert torch.allclose(both[:1], velocity(adapter, x_t, two, t=0.2)[:1], atol=1e-6)
    assert torch.allclose(both[1:], velocity(adapter, x_t, two, t=0.9)[1:], atol=1e-6)


def test_a_bfloat16_model_stays_bfloat16_and_answers_in_float32(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), dtype="bfloat16")
    given = adapter.encode(PROMPTS, pictures(2))
    assert {p.dtype for p in adapter.transformer.parameters()} == {torch.bfloat16}
    assert given.prompt_embeds.dtype == given.pooled.dtype == given.reference_tokens.dtype == torch.bfloat16
    x_t = randn(2, 24, 64)
    answer = velocity(adapter, x_t, given)
    assert answer.dtype == torch.float32
    assert torch.equal(answer, velocity(adapter, x_t.bfloat16(), given))


def test_autocast_of_the_caller_is_obeyed_and_the_answer_is_float32(
    adapter: FluxAdapter, two: Conditioning
) -> None:
    x_t = randn(2, 24, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = velocity(adapter, x_t, two)
    assert cast.dtype == torch.float32
    difference = (cast - velocity(adapter, x_t, two)).abs().max()
    assert 1e-4 < difference < 0.1


@pytest.mark.parametrize("attention", ["math", "flash", "auto"])
def test_gradient_checkpointing_leaves_velocity_and_gradients_as_they_are(
    tiny_pipeline: Path, two: Conditioning, attention: str
) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), attention=attention)
    add_lora(adapter.transformer, 4, 4, "attention+ffn", seed=0)
    stirred = {
        name: w + 0.02 * randn(*w.shape, seed=9) for name, w in lora_state(adapter.transformer).items()
    }
    load_lora_state(adapter.transformer, stirred)

    def gradients() -> tuple[Tensor, list[Tensor]]:
        v = adapter.velocity(randn(2, 24, 64), 0.7, two, adapter.target_ids(HEIGHT, WIDTH), GUIDANCE)
        weights = list(lora_parameters(adapter.transformer).values())
        return v.detach(), list(torch.autograd.grad(v.square().mean(), weights))

    plain_v, plain = gradients()
    adapter.enable_gradient_checkpointing()
    calls: list[None] = []
    block = adapter.transformer.transformer_blocks[0]  # type: ignore[union-attr,index]
    handle = block.register_forward_pre_hook(lambda *_: calls.append(None))  # type: ignore[union-attr]
    checkpointed_v, checkpointed = gradients()
    handle.remove()
    assert len(calls) == 2  # forward, and once more in the backward pass
    assert torch.equal(plain_v, checkpointed_v)
    assert all(torch.equal(a, b) for a, b in zip(plain, checkpointed, strict=True))
    assert any(gradient.abs().max() > 0 for gradient in plain)


def test_only_what_is_added_can_be_trained(adapter: FluxAdapter) -> None:
    assert not any(p.requires_grad for p in [*adapter.transformer.parameters(), *adapter.vae.parameters()])
    assert not any(module.training for module in [*adapter.transformer.modules(), *adapter.vae.modules()])


# Encoding


def test_encoding_parts_and_putting_them_together_equals_encoding_at_once(adapter: FluxAdapter) -> None:
    references = pictures(2, 48, 32)
    text, tokens = adapter.encode_text(PROMPTS), adapter.encode_images(references)
    parts = adapter.conditioning(text, tokens, height=48, width=32)
    whole = adapter.encode(PROMPTS, references)
    assert all(torch.equal(getattr(parts, name), getattr(whole, name)) for name in vars(whole))


def test_the_reference_has_index_one_and_the_target_zero(adapter: FluxAdapter, two: Conditioning) -> None:
    target, reference = adapter.target_ids(HEIGHT, WIDTH), two.reference_ids
    assert target.shape == reference.shape == (24, 3)
    assert set(target[:, 0].tolist()) == {0} and set(reference[:, 0].tolist()) == {1}
    assert torch.equal(target[:, 1:], reference[:, 1:])
    assert target[-1].tolist() == [0, 3, 5]


def test_every_prompt_has_the_same_number_of_tokens(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), max_text_tokens=9)
    given = adapter.encode_text(["fox", "a toy robot with red arms, seen on a green floor"])
    assert given.prompt_embeds.shape == (2, 9, 128)
    assert FluxAdapter.load(str(tiny_pipeline)).max_text_tokens == TEXT_TOKENS  # its tokenizer's own


def test_a_prompt_that_is_cut_is_said_so(tiny_pipeline: Path, caplog: pytest.LogCaptureFixture) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline), max_text_tokens=9)
    with caplog.at_level(logging.WARNING, "divrl"):
        adapter.encode_text(["fox"])
        assert not caplog.records
        adapter.encode_text(["fox", "a toy robot with red arms, seen on a green floor"])
    assert "1 of 2 prompts are longer than max_text_tokens=9" in caplog.text


def test_prompts_are_encoded_alike_in_any_company(adapter: FluxAdapter) -> None:
    together = adapter.encode_text([*PROMPTS, "x"], micro_batch=2)
    alone = adapter.encode_text(PROMPTS[1:])
    assert torch.allclose(together.prompt_embeds[1:2], alone.prompt_embeds, atol=1e-5)
    assert torch.allclose(together.pooled[1:2], alone.pooled, atol=1e-5)
    assert (together.pooled[0] - together.pooled[1]).abs().max() > 0.01


def test_dropped_encoders_leave_memory_and_come_back_the_same(tiny_pipeline: Path) -> None:
    adapter = FluxAdapter.load(str(tiny_pipeline))
    before = adapter.encode_text(PROMPTS)
    gc.collect()
    encoders = [weakref.ref(adapter._text._clip), weakref.ref(adapter._text._t5)]
    adapter.drop_encoders()
    assert [encoder() for encoder in encoders] == [None, None]
    assert torch.equal(adapter.encode_text(PROMPTS).prompt_embeds, before.prompt_embeds)


def test_weights_are_read_when_first_used(tiny_pipeline: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "divrl"):
        adapter = FluxAdapter.load(str(tiny_pipeline))
        assert "loading" not in caplog.text
        adapter.encode_text(PROMPTS)
        assert "loading text_encoder_2 (T5EncoderModel, float32)" in caplog.text
        assert "loading transformer" not in caplog.text


def test_sizes_of_the_model_are_told(adapter: FluxAdapter) -> None:
    assert adapter.default_image_size_px == 64
    assert adapter.latent_shape(512, 512) == (1024, 64)
    assert adapter.token_count(32, 64) == 8


# Errors


@pytest.mark.parametrize("size", [(60, 64), (64, 8), (0, 64)])
def test_a_size_that_is_no_multiple_of_16_is_refused(adapter: FluxAdapter, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiple of 16 px on both sides, got {size[0]} x {size[1]}"):
        adapter.target_ids(*size)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(3, 64, 64), r"images must be \(B, 3, H, W\), got \(3, 64, 64\)"),
        (torch.rand(1, 4, 64, 64), r"images must be \(B, 3, H, W\)"),
        (torch.rand(1, 3, 64, 64) * 255, r"must lie in \[0, 1\], got values from"),
        (torch.full((1, 3, 64, 64), float("nan")), "got values from nan to nan"),
    ],
)
def test_pictures_that_are_not_pictures_are_refused(adapter: FluxAdapter, images: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        adapter.encode_images(images)


def test_batches_that_do_not_belong_together_are_refused(adapter: FluxAdapter, two: Conditioning) -> None:
    ids = adapter.target_ids(HEIGHT, WIDTH)
    with pytest.raises(ValueError, match=r"x_t must be \(2, N, C\) like its conditioning, got \(3, 24, 64\)"):
        adapter.velocity(randn(3, 24, 64), 0.5, two, ids, GUIDANCE)
    with pytest.raises(ValueError, match=r"target_ids must be \(12, 3\)"):
        adapter.velocity(randn(2, 12, 64), 0.5, two, ids, GUIDANCE)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\] \(1 = noise\), got 700"):
        adapter.velocity(randn(2, 24, 64), 700, two, ids, GUIDANCE)
    with pytest.raises(ValueError, match=r"one for each of 2 samples, got \(3,\)"):
        adapter.velocity(randn(2, 24, 64), torch.rand(3), two, ids, GUIDANCE)
    with pytest.raises(ValueError, match=r"must be \(2, 24, 64\), got \(2, 16, 64\)"):
        adapter.sample(two, randn(2, 16, 64), height=HEIGHT, width=WIDTH, steps=2, guidance=GUIDANCE)
    with pytest.raises(ValueError, match=r"need reference tokens of shape \(2, 24, 64\)"):
        adapter.conditioning(adapter.encode_text(PROMPTS), randn(1, 24, 64), height=HEIGHT, width=WIDTH)
    with pytest.raises(ValueError, match=r"\(B, 24, 64\), got \(2, 16, 64\)"):
        adapter.decode(randn(2, 16, 64), HEIGHT, WIDTH)


@pytest.mark.parametrize("prompts", [[], "one string"])
def test_prompts_must_be_a_list(adapter: FluxAdapter, prompts: list[str]) -> None:
    with pytest.raises(ValueError, match="list of one or more prompts"):
        adapter.encode_text(prompts)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "fp16"}, "model.dtype must be one of float32, bfloat16, float16, got 'fp16'"),
        ({"attention": "fast"}, "attention must be one of auto, math, flash, efficient, cudnn, got 'fast'"),
        ({"max_text_tokens": 513}, r"max_text_tokens must be in 1\.\.512, got 513"),
    ],
)
def test_unknown_settings_are_refused(tiny_pipeline: Path, settings: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FluxAdapter.load(str(tiny_pipeline), **settings)  # type: ignore[arg-type]
