"""The Gated Best-of-N Sampler inside ComfyUI: its candidates are the stock sampler's, pruned or not."""

from __future__ import annotations

import time

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
    best_of_n,
    model_of,
    node,
    pocket,
    put_picture,
    report,
    saved_latent,
    saved_pictures,
    stock,
)
from .server import Server, WorkflowFailed, WorkflowRefused

LOCKSTEP = ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep",
            "gradient_estimation")  # fmt: skip
SCALE, SHIFT = 0.3611, 0.1159  # FLUX's latents: (raw - shift) * scale
ONE_BY_ONE = ("euler_ancestral", "dpmpp_2m_sde", "lcm", "uni_pc", "euler_cfg_pp", "dpm_adaptive")


def with_sampler(name: str, **settings: object) -> dict[str, dict[str, object]]:
    graph = pocket(lora="explore", **settings)  # type: ignore[arg-type]
    graph["sampler"] = node("KSamplerSelect", sampler_name=name)
    return graph


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral"])
def test_one_candidate_is_the_stock_sampler_s_latent_exactly(comfyui: Server, sampler: str) -> None:
    graph = with_sampler(sampler)
    ours = saved_latent(comfyui, comfyui.run(best_of_n(graph, candidates=1, keep=1, noise_seed=7)))
    theirs = saved_latent(comfyui, comfyui.run(stock(graph, 7)))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sampler", [*LOCKSTEP, *ONE_BY_ONE])
def test_candidate_i_is_the_stock_sampler_s_picture_of_seed_plus_i(comfyui: Server, sampler: str) -> None:
    graph = with_sampler(sampler)
    outputs = comfyui.run(best_of_n(graph, candidates=2, keep=2, noise_seed=11))
    ours = saved_latent(comfyui, outputs)
    kept = [row for row in report(outputs)["candidates"] if row["kept"]]
    assert sorted(row["seed"] for row in kept) == [11, 12]
    for row in kept:
        theirs = saved_latent(comfyui, comfyui.run(stock(graph, row["seed"])))
        assert torch.equal(ours[row["rank"] - 1 : row["rank"]], theirs), row


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler_ancestral"])
def test_survivors_of_pruning_are_the_stock_sampler_s_pictures_too(comfyui: Server, sampler: str) -> None:
    graph = with_sampler(sampler)
    pruned = best_of_n(graph, candidates=4, keep=1, pruning=True, pruning_plan="2:3 3:2")
    outputs = comfyui.run(pruned)
    told = report(outputs)
    assert sorted(row["stopped_after_step"] or 9 for row in told["candidates"]) == [2, 3, 9, 9]
    (winner,) = (row for row in told["candidates"] if row["kept"])
    assert winner["stopped_after_step"] is None
    theirs = saved_latent(comfyui, comfyui.run(stock(graph, winner["seed"])))
    assert torch.equal(saved_latent(comfyui, outputs), theirs)
    # paused in place: 4 x 2 + 3 x 1 + 2 x 3 steps; run again from the start: 4 x 2 + 3 x 3 + 2 x 6
    assert told["evaluations"] == (17 if sampler == "dpmpp_2m" else 29)
    assert told["evaluations_without_pruning"] == 24
    words = "29% saved by pruning" if sampler == "dpmpp_2m" else "pruning cost more than it saved"
    assert words in told["summary"]


def test_larger_micro_batches_are_equal_but_for_rounding(comfyui: Server) -> None:
    graph = with_sampler("euler")
    one = saved_latent(comfyui, comfyui.run(best_of_n(graph, micro_batch=1)))
    for rows in (2, 3):
        several = saved_latent(comfyui, comfyui.run(best_of_n(graph, micro_batch=rows)))
        torch.testing.assert_close(several, one, atol=1e-4, rtol=0)
        assert f"sampling 3 candidates, {rows} at a time" in comfyui.log()
        assert not torch.equal(several, one)  # rounding there is: the model did see them together
    several = saved_latent(comfyui, comfyui.run(best_of_n(graph, micro_batch=0)))  # as many as fit
    torch.testing.assert_close(several, one, atol=1e-4, rtol=0)


def test_batches_of_references_are_seen_as_the_stock_sampler_sees_them(comfyui: Server) -> None:
    """Rows of a micro-batch would each meet another row of the reference; so the micro-batch is 1."""
    graph = with_sampler("euler")
    graph["other"] = node("DivRL_LoadPocketKontext", variant="kontext", figure=4)
    graph["two"] = node("ImageBatch", image1=["pocket", 3], image2=["other", 3])
    graph["encoded"]["inputs"]["pixels"] = ["two", 0]
    outputs = comfyui.run(best_of_n(graph, candidates=2, keep=2, micro_batch=2))
    ours = saved_latent(comfyui, outputs)
    assert "micro_batch 1, since a prompt, reference or mask is a batch" in comfyui.log()
    for row in report(outputs)["candidates"]:
        theirs = saved_latent(comfyui, comfyui.run(stock(graph, row["seed"])))
        assert torch.equal(ours[row["rank"] - 1 : row["rank"]], theirs)


@pytest.mark.parametrize("patch", ["EasyCache", "LazyCache", "APG"])
def test_patches_that_remember_earlier_steps_do_not_mix_candidates(comfyui: Server, patch: str) -> None:
    graph = with_sampler("euler")
    graph["sigmas"] = node("BasicScheduler", model=["pocket", 0], scheduler="simple", steps=10, denoise=1.0)
    graph["negative"] = node("CLIPTextEncode", clip=["pocket", 1], text="a robot")
    settings = {
        "EasyCache": {"reuse_threshold": 0.5, "start_percent": 0.1, "end_percent": 0.95, "verbose": False},
        "LazyCache": {"reuse_threshold": 0.5, "start_percent": 0.1, "end_percent": 0.95, "verbose": False},
        "APG": {"eta": 1.0, "norm_threshold": 5.0, "momentum": -0.5},
    }
    graph["patched"] = node(patch, model=model_of(graph), **settings[patch])
    cfg = 2.0 if patch == "APG" else 1.0
    graph["cfg"] = node(
        "CFGGuider", model=["patched", 0], positive=["positive", 0], negative=["negative", 0], cfg=cfg
    )
    wanted = {"candidates": 3, "keep": 2, "pruning": True, "pruning_plan": "3:2", "model": ["cfg", 0]}
    outputs = comfyui.run(best_of_n(graph, **wanted, positive=None))
    ours, told = saved_latent(comfyui, outputs), report(outputs)
    assert told["survivors_go_on"] == "from their first step"
    for row in told["candidates"]:
        if row["kept"]:
            theirs = saved_latent(comfyui, comfyui.run(stock(graph, row["seed"], guider=["cfg", 0])))
            assert torch.equal(ours[row["rank"] - 1 : row["rank"]], theirs)


def test_several_candidates_under_cfg_are_the_stock_sampler_s(comfyui: Server) -> None:
    graph = with_sampler("dpmpp_2m")
    graph["negative"] = node("CLIPTextEncode", clip=["pocket", 1], text="a robot")
    graph["cfg"] = node(
        "CFGGuider", model=model_of(graph), positive=["positive", 0], negative=["negative", 0], cfg=2.0
    )
    wanted = {"candidates": 4, "keep": 2, "pruning": True, "pruning_plan": "2:3", "model": ["cfg", 0]}
    outputs = comfyui.run(best_of_n(graph, **wanted, positive=None))
    ours, told = saved_latent(comfyui, outputs), report(outputs)
    assert told["survivors_go_on"] == "in place"
    for row in told["candidates"]:
        if row["kept"]:
            theirs = saved_latent(comfyui, comfyui.run(stock(graph, row["seed"], guider=["cfg", 0])))
            assert torch.equal(ours[row["rank"] - 1 : row["rank"]], theirs)


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


def test_a_guider_of_its_own_serves_as_well(comfyui: Server) -> None:
    graph = with_sampler("euler")
    graph["negative"] = node("CLIPTextEncode", clip=["pocket", 1], text="a robot")
    graph["cfg"] = node(
        "CFGGuider", model=model_of(graph), positive=["positive", 0], negative=["negative", 0], cfg=2.0
    )
    ours = comfyui.run(best_of_n(graph, candidates=1, keep=1, model=["cfg", 0], positive=None))
    theirs = comfyui.run(stock(graph, 5, guider=["cfg", 0]))
    assert torch.equal(saved_latent(comfyui, ours), saved_latent(comfyui, theirs))


def test_an_inpainting_mask_and_a_partial_schedule_are_the_stock_sampler_s(comfyui: Server) -> None:
    graph = with_sampler("euler")
    graph["half"] = node("SolidMask", value=1.0, width=64, height=128)
    graph["whole"] = node("SolidMask", value=0.0, width=128, height=128)
    graph["mask"] = node(
        "MaskComposite", destination=["whole", 0], source=["half", 0], x=0, y=0, operation="add"
    )
    graph["latent"] = node("SetLatentNoiseMask", samples=["encoded", 0], mask=["mask", 0])
    graph["sigmas"] = node("BasicScheduler", model=["pocket", 0], scheduler="simple", steps=6, denoise=0.7)
    outputs = comfyui.run(best_of_n(graph, candidates=3, keep=1, pruning=True, pruning_plan="2:2"))
    (winner,) = (row for row in report(outputs)["candidates"] if row["kept"])
    theirs = comfyui.run(stock(graph, winner["seed"]))
    assert torch.equal(saved_latent(comfyui, outputs), saved_latent(comfyui, theirs))


def test_the_same_workflow_twice_gives_the_same_pictures(comfyui: Server) -> None:
    graph = best_of_n(with_sampler("euler"), candidates=4, keep=2, pruning=True, mode="diverse set")
    first = comfyui.run(graph)
    runs = comfyui.log().count("best of 4:")
    again = first
    for _ in range(50):  # the server forgets when its worker gets to it
        comfyui.forget()
        time.sleep(0.1)
        again = comfyui.run(graph)
        if comfyui.log().count("best of 4:") > runs:
            break
    assert comfyui.log().count("best of 4:") > runs  # it was sampled again, not remembered
    assert report(first) == report(again)
    for one, other in zip(saved_pictures(comfyui, first), saved_pictures(comfyui, again), strict=True):
        assert one.tobytes() == other.tobytes()


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
