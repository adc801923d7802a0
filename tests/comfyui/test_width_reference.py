"""Width Reference inside ComfyUI is latents literally side by side in diffusers, with and without a trained LoRA."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from divrl_core.models.layout import grid_ids, pack, text_ids, unpack
from divrl_core.models.model_names import POCKET_FOLDER, TEXT_TO_IMAGE_PART
from divrl_core.models.panels import letterbox
from divrl_core.models.pocket_text import PocketText

from .graphs import SCALE, SHIFT, node, pocket, saved_latent, stock
from .server import Outputs, Server, Workflow, WorkflowFailed

SIGMAS = (1.0, 0.8, 0.5, 0.2, 0.0)
PROMPT = "a toy fox with a striped body on a blue floor"
GUIDANCE = 1.0
LORAS = POCKET_FOLDER / "loras"
CLOSE = {"atol": 1e-4, "rtol": 0.0}


def width_graph(*, lora: str, one_step: bool = False, references: int = 1) -> Workflow:
    """Text to image with its reference along width; what is sampled and what was encoded are saved."""
    graph = pocket(variant="text to image", lora=lora, prompt=PROMPT)
    model = ["model" if lora else "pocket", 0]
    graph["positive"] = node("FluxGuidance", conditioning=["referred", 0], guidance=GUIDANCE)
    graph["sigmas"] = node("ManualSigmas", sigmas=", ".join(str(sigma) for sigma in SIGMAS))
    if references == 2:
        graph["again"] = node("ReferenceLatent", conditioning=["referred", 0], latent=["encoded", 0])
        graph["positive"]["inputs"]["conditioning"] = ["again", 0]
    if one_step:
        graph["width"] = node(
            "DivRL_WidthReferenceFromImage", model=model, conditioning=["text", 0], vae=["pocket", 2],
            image=["pocket", 3], latent=["latent", 0],
        )  # fmt: skip
        graph["positive"]["inputs"]["conditioning"] = ["width", 1]
    else:
        graph["width"] = node("DivRL_WidthReference", model=model)
    graph["guider"] = node("BasicGuider", model=["width", 0], conditioning=["positive", 0])
    whole = stock(graph, 3, guider=["guider", 0])
    whole["reference"] = node("SaveLatent", samples=["encoded", 0], filename_prefix="reference")
    return whole


@cache
def transformer(lora: str) -> FluxTransformer2DModel:
    """The text-to-image transformer in diffusers, with the LoRA loaded by diffusers' own loader."""
    made = FluxTransformer2DModel.from_pretrained(
        str(POCKET_FOLDER), subfolder=TEXT_TO_IMAGE_PART, torch_dtype=torch.float32
    )
    if lora:
        pipeline = FluxPipeline(
            scheduler=None, vae=None, text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None,
            transformer=made,
        )  # fmt: skip
        pipeline.load_lora_weights(str(LORAS / f"divrl-pocket-{lora}.safetensors"))
    return made.eval()


@torch.no_grad()
def literally_concatenated(reference: Tensor, *, lora: str, seed: int = 3, references: int = 1) -> Tensor:
    """The target's raw latent (1, 16, h, w), sampled on one wide canvas: nothing here knows of layouts."""
    clean = torch.cat([(reference - SHIFT) * SCALE] * references, dim=-1)
    x = torch.randn(1, 16, 16, 16, generator=torch.manual_seed(seed))
    width = x.shape[-1]
    text = PocketText().encode([PROMPT])
    rows, columns = 8, (width + clean.shape[-1]) // 2
    for sigma, following in pairwise(SIGMAS):
        canvas = torch.cat([x, clean], dim=-1)
        prediction = transformer(lora)(
            hidden_states=pack(canvas),
            timestep=torch.tensor([sigma]),
            guidance=torch.tensor([GUIDANCE]),
            pooled_projections=text.pooled,
            encoder_hidden_states=text.prompt_embeds,
            txt_ids=text_ids(text.prompt_embeds.shape[1]),
            img_ids=grid_ids(rows, columns),
            return_dict=False,
        )[0]
        velocity = unpack(prediction, rows, columns)[..., :width]
        x = x + velocity * (following - sigma)
    return x / SCALE + SHIFT


@pytest.mark.parametrize("lora", ["", "masked-cfm"])
def test_it_is_literally_concatenated_latents_in_diffusers(comfyui: Server, lora: str) -> None:
    outputs = comfyui.run(width_graph(lora=lora))
    reference = saved_latent(comfyui, outputs, "reference")
    torch.testing.assert_close(
        saved_latent(comfyui, outputs), literally_concatenated(reference, lora=lora), **CLOSE
    )


def test_two_references_go_on_to_the_right(comfyui: Server) -> None:
    outputs = comfyui.run(width_graph(lora="masked-cfm", references=2))
    reference = saved_latent(comfyui, outputs, "reference")
    expected = literally_concatenated(reference, lora="masked-cfm", references=2)
    torch.testing.assert_close(saved_latent(comfyui, outputs), expected, **CLOSE)


def test_stretched_positions_are_stretched_for_the_reference_too(comfyui: Server) -> None:
    """ComfyUI's ScaleROPE: the whole canvas is stretched, so twice the stretch is another picture and still runs."""
    graph = width_graph(lora="masked-cfm")
    plain = saved_latent(comfyui, comfyui.run(graph))
    scaled = {}
    for factor in (1.0, 1.5):
        graph["rope"] = node(
            "ScaleROPE", model=["model", 0], scale_x=factor, shift_x=0.0, scale_y=factor, shift_y=0.0, scale_t=1.0,
            shift_t=0.0,
        )  # fmt: skip
        graph["width"]["inputs"]["model"] = ["rope", 0]
        scaled[factor] = saved_latent(comfyui, comfyui.run(graph))
    torch.testing.assert_close(scaled[1.0], plain, atol=1e-5, rtol=0)
    assert (scaled[1.5] - plain).abs().max() > 0.01


def test_in_one_step_it_is_the_same(comfyui: Server) -> None:
    # the sample reference has the panel's size, so letterboxing leaves it alone
    one = saved_latent(comfyui, comfyui.run(width_graph(lora="masked-cfm", one_step=True)))
    two = saved_latent(comfyui, comfyui.run(width_graph(lora="masked-cfm")))
    assert torch.equal(one, two)


def test_without_the_node_the_reference_is_read_otherwise(comfyui: Server) -> None:
    graph = width_graph(lora="masked-cfm")
    graph["guider"]["inputs"]["model"] = ["model", 0]
    kontext = saved_latent(comfyui, comfyui.run(graph))
    width = saved_latent(comfyui, comfyui.run(width_graph(lora="masked-cfm")))
    assert (kontext - width).abs().max() > 0.1


def test_the_reference_is_letterboxed_as_in_training(comfyui: Server, tmp_path: Path) -> None:
    """A low picture in a square panel: the model sees what `letterbox` makes of it."""
    from PIL import Image

    from .graphs import put_picture

    blots = torch.rand(3, 4, 8, generator=torch.Generator().manual_seed(0))
    low = (torch.nn.functional.interpolate(blots[None], (64, 128))[0] * 255).byte()
    name = put_picture(comfyui, Image.fromarray(low.permute(1, 2, 0).numpy()), "low.png")
    square = letterbox(low.float() / 255, 128, 128)
    as_square = Image.fromarray((square * 255).round().byte().permute(1, 2, 0).numpy())

    def latent_of(graph: Workflow) -> Tensor:
        return saved_latent(comfyui, comfyui.run(graph))

    graph = width_graph(lora="masked-cfm", one_step=True)
    graph["picture"] = node("LoadImage", image=name)
    graph["width"]["inputs"]["image"] = ["picture", 0]
    fitted = latent_of(graph)
    graph["picture"] = node("LoadImage", image=put_picture(comfyui, as_square, "square.png"))
    torch.testing.assert_close(latent_of(graph), fitted, atol=0.05, rtol=0)  # eight bits lie between


def refused(server: Server, graph: Workflow) -> str:
    with pytest.raises(WorkflowFailed, match="DivRL_WidthReference") as failed:
        server.run(graph)
    return failed.value.message


def test_wrong_inputs_are_refused_in_words(comfyui: Server) -> None:
    graph = width_graph(lora="", one_step=True)
    graph["four"] = node("Test_FourChannels", image=["pocket", 3])
    graph["width"]["inputs"]["image"] = ["four", 0]
    assert "image: needs pictures with 3 channels, got 4" in refused(comfyui, graph)
    graph["tiny"] = node("EmptyImage", width=8, height=8, batch_size=1, color=0)
    graph["width"]["inputs"]["image"] = ["tiny", 0]
    del graph["width"]["inputs"]["latent"]
    assert "needs at least 16 x 16 px, got 8 x 8" in refused(comfyui, graph)
    graph["two"] = node("EmptyImage", width=32, height=32, batch_size=2, color=0)
    graph["width"]["inputs"]["image"] = ["two", 0]
    assert "needs one reference, got a batch of 2" in refused(comfyui, graph)


def test_a_workflow_without_references_is_left_as_it_is(comfyui: Server) -> None:
    graph = width_graph(lora="")
    graph["positive"]["inputs"]["conditioning"] = ["text", 0]
    with_node: Outputs = comfyui.run(graph)
    graph["guider"]["inputs"]["model"] = ["pocket", 0]
    assert torch.equal(saved_latent(comfyui, with_node), saved_latent(comfyui, comfyui.run(graph)))
