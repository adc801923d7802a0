"""The pocket Kontext and its LoRAs in ComfyUI are those of the trainer: same schedule, same pictures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.flow.sde import ode_step
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.layout import pack, unpack
from divrl_core.models.lora_apply import load_for_inference
from divrl_core.models.lora_file import read_lora
from divrl_core.models.model_names import POCKET_FOLDER
from divrl_core.pocket.references import PocketReferences

from .graphs import SCALE, SHIFT, node, pocket, saved_latent, saved_pictures, stock
from .server import Server, WorkflowFailed


def test_the_sample_reference_is_the_world_s_own(comfyui: Server) -> None:
    references = PocketReferences(split="held_out", count=10)
    drawn = references.load(references.reference_id(7), 128)
    graph = {
        "pocket": node("DivRL_LoadPocketKontext", variant="kontext", figure=7),
        "as_picture": node("MaskToImage", mask=["pocket", 4]),
        "kept": node("SaveImage", images=["pocket", 3], filename_prefix="figure"),
        "mask": node("SaveImage", images=["as_picture", 0], filename_prefix="mask"),
        "prompt": node("PreviewAny", source=["pocket", 5]),
    }
    outputs = comfyui.run(graph)
    (picture,), (mask,) = saved_pictures(comfyui, outputs), saved_pictures(comfyui, outputs, "mask")
    expected = (drawn.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(np.asarray(picture), expected)
    assert np.array_equal(np.asarray(mask)[..., 0] > 127, drawn.mask.numpy())
    assert outputs["prompt"]["text"] == [references.prompts(7)[0]]


def test_a_picture_goes_through_the_vae_as_in_diffusers(comfyui: Server) -> None:
    references = PocketReferences(split="held_out", count=1)
    picture = references.load(references.reference_id(0), 128).image
    graph = pocket()
    graph["decoded"] = node("VAEDecode", samples=["encoded", 0], vae=["pocket", 2])
    graph["latents"] = node("SaveLatent", samples=["encoded", 0], filename_prefix="encoded")
    graph["kept"] = node("SaveImage", images=["decoded", 0], filename_prefix="decoded")
    outputs = comfyui.run(graph)
    adapter = FluxAdapter.load("pocket")
    tokens = adapter.encode_images(picture[None])
    raw = unpack(tokens, 8, 8) / SCALE + SHIFT
    torch.testing.assert_close(saved_latent(comfyui, outputs), raw, atol=1e-4, rtol=0)
    decoded = (adapter.decode(tokens, 128, 128)[0].permute(1, 2, 0).numpy() * 255).clip(0, 255)
    (shown,) = saved_pictures(comfyui, outputs)
    assert isinstance(shown, Image.Image)
    assert np.abs(np.asarray(shown).astype(float) - decoded).max() <= 1.01  # eight bits, rounded down


@pytest.mark.parametrize("lora", ["", "explore", "suppress"])
def test_kontext_with_a_trained_lora_samples_as_the_trainer_does(comfyui: Server, lora: str) -> None:
    """Stock nodes, the pack's model and prompt encoder, the stock LoRA loader: the adapter's own Euler steps."""
    outputs = comfyui.run(stock(pocket(lora=lora), 3))
    adapter = FluxAdapter.load("pocket")
    if lora:
        file = read_lora(POCKET_FOLDER / "loras" / f"divrl-pocket-{lora}.safetensors")
        load_for_inference(adapter.transformer, file, 1.0)
    references = PocketReferences(split="held_out", count=1)
    reference = references.load(references.reference_id(0), 128)
    conditioning = adapter.encode(references.prompts(0)[:1], reference.image[None])
    x = pack(torch.randn(1, 16, 16, 16, generator=torch.manual_seed(3)))
    with torch.no_grad():
        for t, following in pairwise(adapter.sigmas(6, 128, 128).tolist()):
            v = adapter.velocity(x, t, conditioning, adapter.target_ids(128, 128), 2.5)
            x = ode_step(x, v, t, following)
    expected = unpack(x, 8, 8) / SCALE + SHIFT
    # ComfyUI reads its schedule off a table of 10,000 times, so times differ by up to 1e-4
    torch.testing.assert_close(saved_latent(comfyui, outputs), expected, atol=5e-3, rtol=0)


def test_no_key_of_a_trained_lora_is_left_out(comfyui: Server) -> None:
    for lora in ("explore", "suppress"):
        comfyui.run(stock(pocket(lora=lora), 1))
    comfyui.run(stock(pocket(variant="text to image", lora="masked-cfm"), 1))
    assert "lora key not loaded" not in comfyui.log()
    assert "ERROR lora" not in comfyui.log()


def test_flux_s_own_prompt_node_serves_and_others_are_refused_in_words(comfyui: Server) -> None:
    graph = pocket()
    plain = saved_latent(comfyui, comfyui.run(stock(graph, 1)))
    graph["text"] = node(
        "CLIPTextEncodeFlux", clip=["pocket", 1], clip_l=["pocket", 5], t5xxl=["pocket", 5], guidance=2.5
    )
    assert torch.equal(saved_latent(comfyui, comfyui.run(stock(graph, 1))), plain)
    graph["skip"] = node("CLIPSetLastLayer", clip=["pocket", 1], stop_at_clip_layer=-2)
    graph["text"]["inputs"]["clip"] = ["skip", 0]
    with pytest.raises(WorkflowFailed, match="leave CLIP Set Last Layer out"):
        comfyui.run(stock(graph, 1))


def test_the_loader_of_model_and_clip_takes_the_pocket_s_encoders_too(comfyui: Server) -> None:
    graph = pocket()
    graph["both"] = node(
        "LoraLoader", model=["pocket", 0], clip=["pocket", 1], lora_name="divrl-pocket-explore.safetensors",
        strength_model=1.0, strength_clip=1.0,
    )  # fmt: skip
    graph["text"]["inputs"]["clip"] = ["both", 1]
    graph["model"] = node(
        "ModelSamplingFlux", model=["both", 0], max_shift=1.15, base_shift=0.5, width=128, height=128
    )
    same = saved_latent(comfyui, comfyui.run(stock(graph, 1)))
    alone = saved_latent(comfyui, comfyui.run(stock(pocket(lora="explore"), 1)))
    torch.testing.assert_close(same, alone, atol=1e-5, rtol=0)
