"""Building the pocket Kontext: widening keeps the function, a stopped build goes on to the same weights."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxKontextPipeline, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.model_names import POCKET_FOLDER
from divrl_core.models.pocket_parts import (
    TEXT_TOKENS,
    build_clip,
    build_t5,
    build_transformer,
    build_vae,
    learn_merges,
)
from divrl_core.pocket import build as build_module
from divrl_core.pocket.build import BuildRecipe, OutOfTime, build, captions_of
from divrl_core.pocket.optimizer import BlockOptimizer
from divrl_core.pocket.pairs import PairSource, TransformerRecipe, all_captions, encode_captions
from divrl_core.pocket.pipeline_writer import TEXT_TO_IMAGE_PART
from divrl_core.pocket.train_transformer import GuidanceTeacher, flow_loss, predict
from divrl_core.pocket.train_vae import VaeRecipe, narrow_vae, round_trip_psnr, widen
from divrl_core.pocket.world import VIEWS, load_shard, shard_path

VAE = VaeRecipe(
    narrow_steps=4, wide_steps=2, batch_size=1, crop_px=32, save_every_steps=2, report_every_steps=1
)
KONTEXT = TransformerRecipe(
    shards=1, steps=4, decay_steps=2, warmup_steps=2, batch_size=2, save_every_steps=2, report_every_steps=1
)


BOTH = {"transformer", "transformer_text_to_image"}


@pytest.fixture
def small_world(monkeypatch):
    """Two identities a shard, so that a whole build takes seconds."""
    monkeypatch.setattr("divrl_core.pocket.world.SHARD_IDENTITIES", 2)
    monkeypatch.setattr(build_module, "render_split", _render_here)


def _render_here(folder, shards, *, seed, held_out=False, workers=1):
    """The real shards, drawn in this process so that they see the smaller shard size."""
    from divrl_core.pocket.world import render_shard

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        yield render_shard(number, folder, seed=seed, held_out=held_out)


class _StopAfter:
    """Counts reports and stops the build at the last one allowed."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed

    def __call__(self, message: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise OutOfTime


def run(output, *, seed=3, kontext=KONTEXT, **settings):
    recipe = BuildRecipe(
        vae=VAE,
        text_to_image=replace(kontext, conditioning="none"),
        kontext=kontext,
        guidance=replace(kontext, guidance_below_time=0.7),
    )
    return build(output, seed=seed, recipe=recipe, **settings)


def test_widening_a_vae_does_not_change_what_it_computes():
    narrow, wide = narrow_vae(seed=0), build_vae(seed=1)
    widen(narrow, wide, seed=0, noise=0.0)
    pictures = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = narrow.encoder(pictures)
        assert torch.allclose(wide.encoder(pictures), latents, atol=1e-4)
        assert torch.allclose(wide.decoder(latents), narrow.decoder(latents), atol=1e-4)


def test_every_caption_of_the_world_has_its_own_text_embedding():
    text = encode_captions(seed=0)
    assert text.embeds.shape[:2] == (len(all_captions()), TEXT_TOKENS)
    for values in (text.embeds.flatten(1), text.pooled):
        distance = torch.cdist(values, values) + torch.eye(len(values)) * 1e9
        assert distance.min() > 0.5


def test_the_text_side_is_the_same_for_the_same_seed_and_reads_any_prompt():
    for make in (build_clip, build_t5):
        (tokenizer, first), (_, again) = make(all_captions(), seed=1), make(all_captions(), seed=1)
        for left, right in zip(first.parameters(), again.parameters(), strict=True):
            assert torch.equal(left, right)
        ids = tokenizer("a photograph of my cat, 1999!")["input_ids"]
        assert tokenizer.unk_token_id not in ids[:-1]


def test_merges_are_learned_in_the_order_worked_by_hand():
    """ab</w> 3 times, cb</w> 3 times, abb</w> once: a+b</w> (3) ties with c+b</w> (3), a is the older piece."""
    words = {("a", "b</w>"): 3, ("c", "b</w>"): 3, ("a", "b", "b</w>"): 1}
    assert learn_merges(words) == [("a", "b</w>"), ("c", "b</w>"), ("a", "b"), ("ab", "b</w>")]


def test_the_shipped_tokenizers_are_those_that_a_build_makes():
    for make, name in ((build_clip, "tokenizer"), (build_t5, "tokenizer_2")):
        tokenizer, _ = make(all_captions(), seed=0)
        shipped = type(tokenizer).from_pretrained(POCKET_FOLDER / name)
        assert shipped.get_vocab() == tokenizer.get_vocab()
        assert shipped("a toy fox on a blue floor") == tokenizer("a toy fox on a blue floor")


def test_a_build_that_is_stopped_again_and_again_ends_in_the_same_weights(tmp_path, small_world):
    whole = run(tmp_path / "whole")
    assert whole is not None
    stopped, messages_allowed = None, 3
    while stopped is None:
        stopped = run(tmp_path / "stopped", report=_StopAfter(messages_allowed))
        messages_allowed += 2  # drawn, narrow, wide, encoded and transformer steps are all stopped in once
    assert messages_allowed > 9
    for part in (
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ):
        first, second = load_file(whole / part), load_file(stopped / part)
        assert {name for name in first if not torch.equal(first[name], second[name])} == set()


def test_a_built_pipeline_loads_in_diffusers_and_makes_a_picture(tmp_path, small_world):
    folder = run(tmp_path / "pocket")
    assert json.loads((folder / "divrl.json").read_text())["image_size_px"] == 128
    pipeline = FluxKontextPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    shard = load_shard(shard_path(tmp_path / "pocket" / "shards", 0, held_out=True))
    reference = torch.from_numpy(shard.images[0, 0]).permute(2, 0, 1).float()[None] / 255
    picture = pipeline(
        image=reference,
        prompt=shard.prompts[0][0],
        height=128,
        width=128,
        max_area=128 * 128,
        _auto_resize=False,
        num_inference_steps=2,
        max_sequence_length=TEXT_TOKENS,
        output_type="pt",
    ).images
    assert picture.shape == (1, 3, 128, 128) and bool(torch.isfinite(picture).all())
    psnr, figure_psnr = round_trip_psnr(pipeline.vae.float(), shard.images[:, 0], shard.masks[:, 0])
    assert psnr > 10 and figure_psnr > 8  # four steps from a start that already carries colour


@pytest.mark.parametrize(("vae", "changed"), [("keep", BOTH), ("train", BOTH | {"vae"})])
def test_a_build_goes_on_from_a_pipeline_and_changes_what_it_trains_alone(
    tmp_path, small_world, vae, changed
):
    """With no step to make the weights come back as they were; with some, only the trained parts' files differ."""
    untouched = run(
        tmp_path / "untouched", start_from="pocket", vae="keep", kontext=replace(KONTEXT, steps=0)
    )
    trained = run(tmp_path / "trained", start_from="pocket", vae=vae)
    for file in sorted(path for path in POCKET_FOLDER.rglob("*") if path.is_file()):
        name = file.relative_to(POCKET_FOLDER)
        if file.suffix == ".json" and file.name != "divrl.json":
            assert (trained / name).read_bytes() == file.read_bytes()
        if file.suffix == ".safetensors":
            shipped, same, other = (
                load_file(folder / name) for folder in (POCKET_FOLDER, untouched, trained)
            )
            assert all(torch.equal(shipped[key], same[key]) for key in shipped)
            is_changed = any(not torch.equal(shipped[key], other[key]) for key in shipped)
            assert is_changed == (name.parts[0] in changed)
    FluxKontextPipeline.from_pretrained(trained)
    facts = [json.loads((folder / "divrl.json").read_text()) for folder in (POCKET_FOLDER, trained)]
    assert facts[0]["seed"] == facts[1]["seed"], "the seed of the text side, which is kept"


def test_a_build_with_a_vae_to_train_further_is_resumed_to_the_same_weights(tmp_path, small_world):
    whole = run(tmp_path / "whole", start_from="pocket")
    stopped, messages_allowed = None, 3
    while stopped is None:
        stopped = run(tmp_path / "stopped", start_from="pocket", report=_StopAfter(messages_allowed))
        messages_allowed += 2
    for part in ("transformer", "vae"):
        (first,), (second,) = (list((folder / part).glob("*.safetensors")) for folder in (whole, stopped))
        left, right = load_file(first), load_file(second)
        assert {name for name in left if not torch.equal(left[name], right[name])} == set()


def test_a_build_goes_on_with_the_text_side_of_its_start(small_world):
    start = FluxAdapter.load("pocket")
    text = captions_of(start, seed=3)
    prompt = all_captions()[17]
    assert torch.equal(text.embeds[text.row[prompt]], start.encode_text([prompt]).prompt_embeds[0])


def test_the_shipped_text_to_image_model_draws_the_floor_that_its_caption_names_in_diffusers():
    """In the pipeline's place it is a FluxPipeline; a green floor comes out greener than a pink one."""
    part = POCKET_FOLDER / TEXT_TO_IMAGE_PART
    transformer = FluxTransformer2DModel.from_pretrained(part, torch_dtype=torch.float32)
    whole = FluxKontextPipeline.from_pretrained(POCKET_FOLDER, torch_dtype=torch.float32)
    pipeline = FluxPipeline(
        **{name: getattr(whole, name) for name in ("scheduler", "vae", "text_encoder", "text_encoder_2")},
        tokenizer=whole.tokenizer,
        tokenizer_2=whole.tokenizer_2,
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline(
        ["a toy fox on a green floor", "a toy fox on a pink floor"],
        height=128,
        width=128,
        num_inference_steps=8,
        max_sequence_length=TEXT_TOKENS,
        generator=[torch.Generator().manual_seed(0) for _ in range(2)],
        output_type="pt",
    ).images
    edge = pictures[:, :, -12:, :12].mean((2, 3))  # the lower left corner: floor
    greenness = edge[:, 1] - edge[:, 0]
    assert float(greenness[0]) > float(greenness[1]) + 0.1


def test_the_shipped_weights_are_the_frozen_ones_that_the_docs_name():
    docs = (Path(__file__).parents[2] / "docs" / "pocket.md").read_text("utf-8")
    files = sorted(POCKET_FOLDER.rglob("*.safetensors"))
    assert len(files) == 9
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert f"| `{file.relative_to(POCKET_FOLDER).as_posix()}` | `{digest}` |" in docs


def test_text_to_image_sees_no_reference():
    """Its loss stays the same whatever stands beside; a Kontext model's does not."""
    latents = torch.randn(2, VIEWS, 4, 64, generator=torch.Generator().manual_seed(0))
    prompts = [[all_captions()[0]] * VIEWS] * 2
    batch = PairSource(latents, prompts, encode_captions(seed=0), KONTEXT, seed=0).batch(0)
    other = batch | {"reference": batch["reference"] + 1}
    transformer = build_transformer(seed=0)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.02)
    with torch.no_grad():
        assert torch.equal(flow_loss(transformer, batch, "none"), flow_loss(transformer, other, "none"))
        assert not torch.equal(flow_loss(transformer, batch), flow_loss(transformer, other))


def test_the_guidance_teacher_extrapolates_from_text_to_image_where_the_pose_is_decided():
    """v_0 + g (v - v_0) below its time, v above, each model asked by itself."""
    recipe = replace(KONTEXT, batch_size=16, guidance_below_time=0.6)
    latents = torch.randn(2, VIEWS, 4, 64, generator=torch.Generator().manual_seed(0))
    prompts = [[all_captions()[0]] * VIEWS] * 2
    batch = PairSource(latents, prompts, encode_captions(seed=0), recipe, seed=0).batch(0)
    models = [build_transformer(seed=seed, double_blocks=1, single_blocks=1) for seed in (0, 1)]
    for model in models:
        torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    kontext, text_to_image = models
    found = GuidanceTeacher(kontext, text_to_image, 0.6).velocity(batch)
    with torch.no_grad():
        with_reference = predict(kontext, batch, "kontext")
        without = predict(text_to_image, batch, "none")
    guided = without + batch["guidance"][:, None, None] * (with_reference - without)
    below = batch["time"] < 0.6
    assert bool(below.any()) and not bool(below.all())
    assert torch.allclose(found[below], guided[below], atol=1e-6)
    assert torch.allclose(found[~below], with_reference[~below], atol=1e-6)


def test_a_student_of_the_teacher_has_no_loss_where_it_is_the_teacher():
    """A student equal to the Kontext teacher: nothing to learn above the time, something below."""
    recipe = replace(KONTEXT, batch_size=16, guidance_below_time=0.6)
    latents = torch.randn(2, VIEWS, 4, 64, generator=torch.Generator().manual_seed(0))
    prompts = [[all_captions()[0]] * VIEWS] * 2
    batch = PairSource(latents, prompts, encode_captions(seed=0), recipe, seed=0).batch(0)
    kontext, text_to_image = (build_transformer(seed=s, double_blocks=1, single_blocks=1) for s in (0, 1))
    for model in (kontext, text_to_image):
        torch.nn.init.normal_(model.proj_out.weight, std=0.02)
    with torch.no_grad():
        loss = flow_loss(kontext, batch, teacher=GuidanceTeacher(kontext, text_to_image, 0.6))
    below = batch["time"] < 0.6
    assert float(loss[~below].max()) < 1e-10 and float(loss[below].min()) > 1e-5


def test_a_build_in_bfloat16_products_keeps_weights_in_float32_and_ends_elsewhere(tmp_path, small_world):
    plain = run(tmp_path / "plain", start_from="pocket", vae="keep")
    rounded = run(tmp_path / "rounded", start_from="pocket", vae="keep", mixed_precision="bf16")
    files = [folder / "transformer" / "diffusion_pytorch_model.safetensors" for folder in (plain, rounded)]
    first, second = (load_file(file) for file in files)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    state = load_file(tmp_path / "rounded" / "work" / "guidance" / "weights.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_near_pairs_stand_where_copying_is_decided(tmp_path):
    """Above the given time every pair is a near one by its share, below it none."""
    recipe = replace(KONTEXT, near_share=1.0, near_above_time=0.6, near_share_below=0.0, batch_size=64)
    latents = torch.arange(VIEWS).float().reshape(1, VIEWS, 1, 1)
    prompts = [[all_captions()[0]] * VIEWS]
    source = PairSource(latents, prompts, encode_captions(seed=0), recipe, seed=0)
    batch = source.batch(0)
    same_stance = (batch["clean"] // 2 == batch["reference"] // 2).flatten()
    is_noisy = batch["time"] > 0.6
    assert bool(is_noisy.any()) and not bool(is_noisy.all())
    assert torch.equal(same_stance, is_noisy) and torch.equal(batch["near"], is_noisy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 4}, "begun with seed=3"),
        ({"start_from": "pocket"}, "begun with start=None"),
        ({"kontext": replace(KONTEXT, steps=6)}, r"begun with text_to_image\.steps=4"),
        ({"kontext": replace(KONTEXT, shards=9, steps=6, warmup_steps=7, lr=0.5)}, "and 9 more; go on"),
    ],
)
def test_a_folder_begun_otherwise_is_refused(tmp_path, small_world, settings, said):
    run(tmp_path / "pocket", report=_StopAfter(1))
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "pocket", **settings)


def test_a_start_that_cannot_be_gone_on_from_is_refused_before_anything_is_written(tmp_path):
    for settings in ({"start_from": "pocket", "stage": "vae"}, {}):
        with pytest.raises(ValueError, match="--vae keep needs --from PIPELINE"):
            build(tmp_path / "out", vae="keep", **settings)
    with pytest.raises(FileNotFoundError):
        build(tmp_path / "out", start_from=str(tmp_path / "nothing"))
    assert not (tmp_path / "out").exists()


def test_compiling_without_a_compiler_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="--compile needs a C\\+\\+ compiler"):
        build(tmp_path / "out", compiled=True)
    assert not (tmp_path / "out").exists()


def test_the_optimizer_gives_its_state_back():
    transformer = build_transformer(seed=0, double_blocks=1, single_blocks=1)
    optimizer = BlockOptimizer(transformer, 1e-3)
    for parameter in transformer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    other = BlockOptimizer(build_transformer(seed=0, double_blocks=1, single_blocks=1), 1e-3)
    other.load_state_dict(optimizer.state_dict())
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            assert torch.equal(value, other.state_dict()["state"][index][name])
