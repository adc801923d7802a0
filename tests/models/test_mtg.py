"""The mtg backbone against Stable Diffusion's own modules and the formula written out, on small published files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from divrl_core.config import BackboneConfig, RewardConfig
from divrl_core.models.encoder_trace import backbone_size
from divrl_core.models.features.base import load_backbone
from divrl_core.models.features.diffusion_taps import TAPS, unet_taps
from divrl_core.models.features.mtg import CALIBRATED, MtgBackbone
from divrl_core.models.features.mtg_stacks import AggregationStack, StackShape
from divrl_core.models.features.sd21 import empty_prompt
from divrl_core.rewards.score import reference_features, score_images
from divrl_core.training.rewarding import Rewarder
from tests.models.small_mtg import (
    GROUPS,
    PROJECTION,
    TEXT_TOKENS,
    TEXT_WIDTH,
    TIMESTEP,
    SmallMtg,
    write_small_mtg,
)
from tests.models.small_mtg import TAPS as SMALL_TAPS
from tests.training.tiny_run import ToyReferences

GRID = 8  # 128 px / 16


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallMtg:
    return write_small_mtg(tmp_path_factory.mktemp("mtg"))


@pytest.fixture(scope="module")
def backbone(small: SmallMtg) -> MtgBackbone:
    return MtgBackbone.load(small.config())


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Three smooth pictures of 128 px."""
    coarse = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, (128, 128), mode="bicubic").clamp(0, 1)


def taps_block_by_block(unet: Any, latents: Tensor, timestep: float, prompt: Tensor) -> dict[str, Tensor]:
    """All ten taps by walking through the UNet's blocks by hand; what an up block puts out is named us1, us2, ..."""
    emb = unet.time_embedding(unet.time_proj(torch.full((len(latents),), timestep)))
    x = unet.conv_in(latents)
    skips = [x]

    def attended(block: Any, place: int, x: Tensor) -> Tensor:
        if not hasattr(block, "attentions"):
            return x
        return block.attentions[place](x, encoder_hidden_states=prompt, return_dict=False)[0]

    for block in unet.down_blocks:
        for place, resnet in enumerate(block.resnets):
            x = attended(block, place, resnet(x, emb))
            skips.append(x)
        for downsampler in block.downsamplers or ():
            x = downsampler(x)
            skips.append(x)
    x = unet.mid_block.resnets[0](x, emb)
    x = unet.mid_block.attentions[0](x, encoder_hidden_states=prompt, return_dict=False)[0]
    x = unet.mid_block.resnets[1](x, emb)
    states = []
    for block in unet.up_blocks:
        for place, resnet in enumerate(block.resnets):
            x = attended(block, place, resnet(torch.cat([x, skips.pop()], dim=1), emb))
            if place < 2:  # the third state of a block is its upsampler's
                states.append(x)
        for upsampler in block.upsamplers or ():
            x = upsampler(x)
            states.append(x)
    assert not skips
    return {f"us{number}": state for number, state in enumerate(states, start=1) if number <= 10}


def stack_by_hand(tensors: dict[str, Tensor], stack: str, taps: dict[str, Tensor], grid: int) -> Tensor:
    """A stack from the published tensors, in plain functions."""

    def conv(name: str, x: Tensor, padding: int = 0) -> Tensor:
        y = F.conv2d(x, tensors[f"{name}.weight"], padding=padding)
        return F.group_norm(y, GROUPS, tensors[f"{name}.norm.weight"], tensors[f"{name}.norm.bias"])

    exponentials = tensors[f"mixing_weights_{stack}"].exp()
    total = torch.zeros(())
    for place, tap in enumerate(SMALL_TAPS):
        x = F.interpolate(taps[tap], size=(grid, grid), mode="bilinear", align_corners=False)
        for block in range(2):
            start = f"bottleneck_layers_{stack}.{place}.{block}"
            y = conv(f"{start}.conv1", x).relu()
            y = conv(f"{start}.conv2", y, padding=1).relu()
            y = conv(f"{start}.conv3", y)
            has_shortcut = f"{start}.shortcut.weight" in tensors
            x = (y + (conv(f"{start}.shortcut", x) if has_shortcut else x)).relu()
        total = total + (1.0 if place == 0 else exponentials[place] / exponentials.sum()) * x
    return total / total.norm(dim=1, keepdim=True)


@torch.no_grad()
def test_every_tap_is_what_the_unets_own_blocks_put_out(small: SmallMtg) -> None:
    unet = small.unet()
    latents, prompt = torch.randn(2, 4, 16, 16), torch.randn(2, TEXT_TOKENS, TEXT_WIDTH)
    expected = taps_block_by_block(unet, latents, TIMESTEP, prompt)
    assert list(expected) == list(TAPS)
    taken = unet_taps(unet, latents, torch.tensor(TIMESTEP).expand(2), prompt, tuple(TAPS))
    for name, ours in zip(TAPS, taken, strict=True):
        assert torch.allclose(ours, expected[name], atol=1e-5), name
        assert ours.std() > 1e-3
    sides = [2 * tap.shape[-1] for tap in taken]
    assert sides == [
        4,
        4,
        8,
        8,
        8,
        16,
        16,
        16,
        32,
        32,
    ]  # of 96 latents: 12, 12, 24, 24, 24, 48, 48, 48, 96, 96


@torch.no_grad()
def test_a_pass_that_ends_early_gives_the_same_taps_and_leaves_no_hook(small: SmallMtg) -> None:
    unet = small.unet()
    latents, prompt = torch.randn(1, 4, 16, 16), torch.randn(1, TEXT_TOKENS, TEXT_WIDTH)
    before = unet(latents, TIMESTEP, prompt).sample
    ran: list[str] = []
    late = unet.up_blocks[2].register_forward_hook(lambda *_: ran.append("late"))
    (short,) = unet_taps(unet, latents, torch.tensor(TIMESTEP), prompt, ["us6"])
    assert ran == []
    later, same = unet_taps(unet, latents, torch.tensor(TIMESTEP), prompt, ["us10", "us6"])
    assert ran == ["late"]
    late.remove()
    assert torch.equal(short, same) and later.shape[1] == 8
    assert torch.equal(unet(latents, TIMESTEP, prompt).sample, before)
    assert not any(module._forward_hooks for module in unet.modules())


@torch.no_grad()
def test_the_empty_prompt_is_the_pipelines_own(small: SmallMtg) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(str(small.base / "tokenizer"))
    ids = tokenizer("", padding="max_length").input_ids
    assert ids[:2] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    assert ids[2:] == [tokenizer.convert_tokens_to_ids("!")] * (TEXT_TOKENS - 2)
    pipeline = StableDiffusionPipeline(
        vae=small.vae(),
        text_encoder=CLIPTextModel.from_pretrained(small.base / "text_encoder"),
        tokenizer=tokenizer,
        unet=small.unet(),
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    expected, _ = pipeline.encode_prompt([""], "cpu", 1, do_classifier_free_guidance=False)
    ours = empty_prompt(small.base)
    assert ours.shape == (1, TEXT_TOKENS, TEXT_WIDTH)
    assert torch.allclose(ours, expected, atol=1e-6) and ours.std() > 0.1


@torch.no_grad()
def test_features_are_the_whole_formula_written_out(
    small: SmallMtg, backbone: MtgBackbone, pictures: Tensor
) -> None:
    tensors = small.tensors()
    posterior = small.vae().encode(pictures * 2 - 1).latent_dist
    assert posterior.std.mean() > 0.1  # a sample would be another latent
    prompt = empty_prompt(small.base).expand(3, -1, -1)
    taps = taps_block_by_block(small.unet(), posterior.mean * 0.18215, TIMESTEP, prompt)
    features = backbone.extract(pictures)
    semantic, visual = (stack_by_hand(tensors, stack, taps, GRID) for stack in ("semantic", "visual"))
    assert features.semantic.shape == (3, PROJECTION, GRID, GRID)
    assert torch.allclose(features.semantic, semantic, atol=2e-5)
    assert torch.allclose(features.structure, visual, atol=2e-5)
    assert torch.allclose(features.semantic.norm(dim=1), torch.ones(3, GRID, GRID), atol=1e-5)
    assert (semantic - visual).abs().max() > 0.1
    (feature,) = features.visual
    assert (feature.name, feature.kernel, feature.weight) == ("mtg", "cosine", 1.0)
    assert torch.equal(feature.values, features.structure) and features.image is None


def test_the_first_tap_has_weight_one_and_the_others_their_share_of_the_softmax() -> None:
    # One channel in, two out. The convolutions are silenced and the shortcut's norm taken away, so that a layer is
    # relu(shortcut x): the tap itself, in channel 0 (first and third tap) or channel 1 (second).
    shape = StackShape(widths=(1, 1, 1), blocks=1, bottleneck=1, projection=2, norm_groups=1)
    stack = AggregationStack(shape)
    for place, layer in enumerate(stack.layers):
        block: Any = layer[0]
        torch.nn.init.zeros_(block.conv3.norm.weight)
        block.shortcut.norm = torch.nn.Identity()
        block.shortcut.weight.data = torch.tensor([0.0, 1.0] if place == 1 else [1.0, 0.0]).view(2, 1, 1, 1)
    stack.mixing_weights.data = torch.tensor([0.5, 0.25, 0.25]).log()  # a softmax of these is what they are
    taps = [torch.full((1, 1, 2, 2), value) for value in (3.0, 8.0, 4.0)]
    with torch.no_grad():
        features = stack(taps, 2)
    # channel 0: 1 * 3 + .25 * 4 = 4; channel 1: .25 * 8 = 2; of length sqrt(20)
    assert features[0, :, 0, 0].tolist() == pytest.approx([4 / 20**0.5, 2 / 20**0.5], abs=1e-6)


def test_two_passes_are_equal_bit_for_bit_alone_and_among_others(
    backbone: MtgBackbone, pictures: Tensor
) -> None:
    together, again = backbone.extract(pictures), backbone.extract(pictures)
    alone = backbone.extract(pictures[1:2])
    for name in ("semantic", "structure"):
        assert torch.equal(getattr(together, name), getattr(again, name))
        assert torch.equal(getattr(together, name)[1:2], getattr(alone, name))


def test_bfloat16_stays_near_float32_and_puts_out_float32(small: SmallMtg, pictures: Tensor) -> None:
    fine, coarse = (
        MtgBackbone.load(small.config(), precision=precision) for precision in ("float32", "bfloat16")
    )
    assert coarse.module.unet.dtype == coarse.module.vae.dtype == torch.bfloat16
    assert coarse.module.semantic.mixing_weights.dtype == coarse.module.timestep.dtype == torch.float32
    for name in ("semantic", "structure"):
        ours, theirs = (getattr(one.extract(pictures), name) for one in (coarse, fine))
        assert ours.dtype == torch.float32 and not torch.equal(ours, theirs)
        assert F.cosine_similarity(ours, theirs, dim=1).min() > 0.98


def test_a_picture_has_no_structural_difference_from_itself_and_full_identity(
    backbone: MtgBackbone, pictures: Tensor
) -> None:
    features, settings = backbone.extract(pictures), backbone.settings.score
    reference = reference_features(features.select(slice(0, 1)), None, settings)
    scores = score_images(features, reference, settings)
    assert scores.nssm[0] == pytest.approx(0, abs=1e-5) and scores.vsm[0] == 1
    assert (scores.nssm[1:] > 0.01).all()


def test_the_rewarder_works_with_it_and_takes_its_gate(small: SmallMtg) -> None:
    references = ToyReferences(("ant", "bee"))
    config = RewardConfig(kind="gated", backbone=small.config())
    rewarder = Rewarder(config, load_backbone(config.backbone), size_px=64)
    ant, bee = (references.load(name, 64).image for name in references.names)
    reward = rewarder.reward(torch.stack([ant, bee, ant.flip(1)]), references, references.pairs[0])
    assert rewarder.gates == {"vsm": 0.5} and rewarder.consistency_cutoff == 0.6
    assert reward.total[0] == pytest.approx(0, abs=1e-5) and reward.vsm[0] == 1
    assert reward.nssm[1] > 0.01 and torch.isfinite(reward.total).all()


def test_calibrated_settings_are_the_papers_and_the_users_lie_over_them(small: SmallMtg) -> None:
    score = CALIBRATED.score
    assert (CALIBRATED.image_size_px, score.tau_s, score.tau_v, score.nssm_pool) == (768, 0.7, 0.7, 2)
    assert (score.agreement, score.one_to_one) == ("anywhere", True)
    loaded = MtgBackbone.load(small.config(image_size_px=192, tau_v=0.4))
    assert loaded.settings.score.tau_v == 0.4 and loaded.settings.score.tau_s == 0.7
    assert loaded.extract(torch.rand(1, 3, 50, 70)).grid == (12, 12)
    assert "Mind-the-Glitch (mtg)" in loaded.source and "us6, us3, us9, us10, 192 px" in loaded.source


def test_a_plan_counts_the_published_sizes_and_reads_no_file() -> None:
    config = BackboneConfig(name="mtg", path="not-there")
    size, reference = backbone_size(config, batch=11, size_px=512)
    unet, encoder = 865_910_724, 34_163_664  # parameters of SD 2.1 as published; the VAE's encoding half
    with torch.device("meta"):
        module = MtgBackbone.without_weights(config).module
    assert sum(value.numel() for value in module.unet.parameters()) == unet
    assert sum(value.numel() for value in module.vae.parameters()) == encoder
    assert len(module.unet.state_dict()) == 686
    assert size.weights > 4 * (unet + encoder)
    # semantic and visual features of 384 x 48 x 48 in float32; structure, pooled 2 x 2 and cropped, in both precisions
    assert reference == (2 * 48 * 48 + 3 * (24 * 24 + 48 * 48)) * 384 * 4
    # one picture after the other: the memory of one, whatever the batch
    assert size.working == backbone_size(config, batch=1, size_px=512)[0].working > 2**30


def test_only_the_half_of_the_vae_that_encodes_is_held(backbone: MtgBackbone) -> None:
    names = {name.split(".")[1] for name in backbone.module.state_dict() if name.startswith("vae.")}
    assert names == {"encoder", "quant_conv"}


def test_with_settings_shares_the_networks(backbone: MtgBackbone, pictures: Tensor) -> None:
    other = backbone.with_settings(replace(backbone.settings, image_size_px=64))
    assert other.module is backbone.module and other.extract(pictures).grid == (4, 4)


def test_the_path_may_be_relative_to_the_working_directory(
    small: SmallMtg, monkeypatch: pytest.MonkeyPatch, pictures: Tensor, backbone: MtgBackbone
) -> None:
    monkeypatch.chdir(small.folder.parent)
    loaded = MtgBackbone.load(small.config(path="mtg", base_path=str(Path("sd21"))))
    assert torch.equal(loaded.extract(pictures).semantic, backbone.extract(pictures).semantic)
