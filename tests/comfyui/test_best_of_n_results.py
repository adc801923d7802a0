"""What the Gated Best-of-N Sampler hands on and says, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny
from PIL import Image
from safetensors.torch import load_file, save_file

from divrl_core.models.model_names import POCKET_FOLDER

from .graphs import (
    LITE0_BACKBONE,
    OWN,
    POCKET_BACKBONE,
    SCALE,
    SHIFT,
    best_of_n,
    node,
    pocket,
    put_picture,
    report,
    saved_latent,
    saved_pictures,
    stock,
    with_sampler,
)
from .server import Server, WorkflowFailed, WorkflowRefused


def test_a_sampler_that_does_not_report_the_cut_s_step_is_refused(comfyui: Server) -> None:
    graph = with_sampler("dpm_fast")
    with pytest.raises(WorkflowFailed, match="does not report step 5 of the schedule"):
        comfyui.run(best_of_n(graph, candidates=4, keep=1, pruning=True, pruning_plan="5:2"))


def test_what_the_scores_would_refuse_is_refused_before_anything_is_sampled(comfyui: Server) -> None:
    said = comfyui.log().count("sampling ")
    with pytest.raises(WorkflowFailed, match="must divide the backbone's grid"):
        comfyui.run(best_of_n(pocket(), pooling=7))
    graph = pocket()
    graph["empty"] = node("SolidMask", value=0.0, width=128, height=128)
    graph["dot"] = node("SolidMask", value=1.0, width=8, height=8)
    graph["speck"] = node(
        "MaskComposite", destination=["empty", 0], source=["dot", 0], x=60, y=60, operation="add"
    )
    with pytest.raises(WorkflowFailed, match="the mask covers"):
        comfyui.run(best_of_n(graph, reference_mask=["speck", 0]))
    graph["vae"] = node("Test_OtherVae")
    with pytest.raises(WorkflowFailed, match="vae: it decodes latents of 4 channels, the model draws 16"):
        comfyui.run(best_of_n(graph, vae=["vae", 0]))
    assert comfyui.log().count("sampling ") == said


def test_nothing_past_the_gate_is_said_and_the_nearest_are_returned(comfyui: Server) -> None:
    graph = best_of_n(with_sampler("euler", figure=1), candidates=3, keep=2, gate=1.0, tau_v=0.95)
    told = report(comfyui.run(graph))
    assert told["summary"].startswith(
        "nothing passed the gate (VSM 1.00); the nearest 2 are returned, marked"
    )
    kept = [row for row in told["candidates"] if row["kept"]]
    assert [row["passes"] for row in kept] == [False, False]
    assert min(row["vsm"] for row in kept) >= max(row["vsm"] for row in told["candidates"] if not row["kept"])
    assert "nothing passed the gate" in comfyui.log()


def test_where_nothing_can_be_scored_nothing_sampled_is_lost(comfyui: Server) -> None:
    graph = with_sampler("euler")
    graph["backbone"] = node("DivRL_LoadRewardBackbone", backbone=LITE0_BACKBONE)
    outputs = comfyui.run(best_of_n(graph, tau_s=0.99, candidates=2, keep=2))  # nothing matches so well
    told = report(outputs)
    assert told["summary"].startswith("no candidate could be scored")
    assert [row["vsm"] for row in told["candidates"]] == [None, None]
    assert len(saved_pictures(comfyui, outputs)) == 2


def test_scores_are_those_of_the_saved_files(comfyui: Server) -> None:
    """What the sampler measured, Score Images measures again on the files that Save Image wrote."""
    outputs = comfyui.run(best_of_n(with_sampler("euler"), candidates=3, keep=3))
    ranked = sorted(report(outputs)["candidates"], key=lambda row: row["rank"])
    for number, (row, picture) in enumerate(zip(ranked, saved_pictures(comfyui, outputs), strict=True)):
        graph = {
            "pocket": node("DivRL_LoadPocketKontext", variant="kontext", figure=0),
            "backbone": node("DivRL_LoadRewardBackbone", backbone=POCKET_BACKBONE),
            "file": node("LoadImage", image=put_picture(comfyui, picture, f"kept-{number}.png")),
            "score": node(
                "DivRL_ScoreImages", images=["file", 0], reference=["pocket", 3], reference_mask=["pocket", 4],
                backbone=["backbone", 0], gate=-1.0, penalty=5.0, **OWN,
            ),
            "report": node("PreviewAny", source=["score", 4]),
        }  # fmt: skip
        (found,) = report(comfyui.run(graph))["pictures"]
        assert found["nssm"] == pytest.approx(row["nssm"], abs=1e-4)
        assert found["vsm"] == pytest.approx(row["vsm"], abs=1e-4)
        assert found["matches"] == row["matches"]


def test_the_outputs_belong_together(comfyui: Server) -> None:
    graph = best_of_n(with_sampler("euler"), candidates=3, keep=2)
    graph["decoded"] = node("VAEDecode", samples=["best", 1], vae=["pocket", 2])
    graph["again"] = node("SaveImage", images=["decoded", 0], filename_prefix="again")
    graph["all"] = node("SaveImage", images=["best", 4], filename_prefix="all")
    graph["seeds"] = node("PreviewAny", source=["best", 2])
    outputs = comfyui.run(graph)
    ranked = sorted(
        (row for row in report(outputs)["candidates"] if row["kept"]), key=lambda row: row["rank"]
    )
    kept, decoded, every = (saved_pictures(comfyui, outputs, name) for name in ("kept", "again", "all"))
    assert [picture.tobytes() for picture in kept] == [picture.tobytes() for picture in decoded]
    assert [every[row["seed"] - 5].tobytes() for row in ranked] == [picture.tobytes() for picture in kept]
    assert outputs["seeds"]["text"] == [str(row["seed"]) for row in ranked]


def test_an_installed_taesd_foresees_where_the_vae_is_a_large_one(comfyui: Server) -> None:
    """The pocket's decoder stands in for FLUX's TAESD, which takes latents in the model's own scale."""
    installed = comfyui.base / "models" / "vae_approx" / "taef1_decoder.safetensors"
    installed.parent.mkdir(exist_ok=True)
    weights = load_file(POCKET_FOLDER / "vae" / "diffusion_pytorch_model.safetensors")
    decoder = {
        f"{int(key.split('.')[2]) + 1}.{key.split('.', 3)[3]}": value.float()
        for key, value in weights.items()
        if key.startswith("decoder.")
    }
    graph = with_sampler("euler")
    graph["large"] = node("Test_RandomVae")

    def run(**more: object) -> tuple[dict[str, object], list[Image.Image]]:
        settings = {"candidates": 4, "keep": 1, "pruning": True, "pruning_plan": "2:2", "tau_s": -0.9}
        whole = best_of_n(graph, **{"vae": ["large", 0], **settings, **more})
        whole["all"] = node("SaveImage", images=["best", 4], filename_prefix="all")
        outputs = comfyui.run(whole)
        return report(outputs), saved_pictures(comfyui, outputs, "all")

    assert run()[0]["foreseen_by"] == "VAE"  # none is installed
    save_file(decoder, installed)
    try:
        told, pictures = run(penalty=4.0)
        assert run(foreseen_by="vae")[0]["foreseen_by"] == "VAE"
        # the pocket's VAE is as quick itself, and another model's TAESD is not its own
        assert run(vae=["pocket", 2], penalty=4.0)[0]["foreseen_by"] == "VAE"
    finally:
        installed.unlink()
    assert told["foreseen_by"] == "TAESD"
    vae = AutoencoderTiny.from_pretrained(str(POCKET_FOLDER / "vae"), torch_dtype=torch.float32)
    graph["split"] = node("SplitSigmas", sigmas=["sigmas", 0], step=2)
    stopped = [number for number, row in enumerate(told["candidates"]) if row["stopped_after_step"] == 2]
    assert len(stopped) == 2
    for number in stopped:
        first_steps = stock(graph, told["candidates"][number]["seed"])
        first_steps["stock"]["inputs"]["sigmas"] = ["split", 0]
        first_steps["latents"]["inputs"]["samples"] = [
            "stock",
            1,
        ]  # the clean latent foreseen in its last step
        raw = saved_latent(comfyui, comfyui.run(first_steps))
        with torch.no_grad():
            decoded = vae.decode((raw - SHIFT) * SCALE).sample[0].add(1).div(2).clamp(0, 1) * 255
        shown = torch.from_numpy(np.array(pictures[number])).permute(2, 0, 1)
        assert (shown - decoded).abs().max() <= 1.01  # eight bits, rounded down


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": 2, "keep": 3}, "keep must be between 1 and the number of candidates, 2, got 3"),
        ({"positive": None}, "positive: a model needs a prompt"),
        ({"pruning": True, "pruning_plan": "nonsense"}, "pairs STEP:SURVIVORS"),
        ({"gate": -0.5}, "gate: a VSM between 0 and 1, or -1"),
    ],
)
def test_what_cannot_be_is_refused_in_words(comfyui: Server, changes: dict[str, object], said: str) -> None:
    with pytest.raises(WorkflowFailed, match="DivRL_GatedBestOfN") as failed:
        comfyui.run(best_of_n(pocket(), **changes))
    assert said in failed.value.message


def test_latents_that_are_no_picture_s_are_refused(comfyui: Server) -> None:
    graph = pocket()
    graph["latent"] = node("EmptyHunyuanLatentVideo", width=128, height=128, length=5, batch_size=1)
    with pytest.raises(
        WorkflowFailed, match="a video or audio latent cannot be used with a reference picture"
    ):
        comfyui.run(best_of_n(graph))
    graph["latent"] = node("EmptySD3LatentImage", width=128, height=128, batch_size=2)
    with pytest.raises(WorkflowFailed, match="latent: needs a batch of 1, got 2"):
        comfyui.run(best_of_n(graph))


def test_a_prompt_beside_a_guider_is_refused(comfyui: Server) -> None:
    graph = pocket()
    graph["basic"] = node("BasicGuider", model=["pocket", 0], conditioning=["positive", 0])
    with pytest.raises(WorkflowFailed, match="a guider is connected, which has its own prompt"):
        comfyui.run(best_of_n(graph, model=["basic", 0]))


def test_values_out_of_range_are_refused_by_the_form(comfyui: Server) -> None:
    with pytest.raises(WorkflowRefused, match="candidates"):
        comfyui.run(best_of_n(pocket(), candidates=0))
