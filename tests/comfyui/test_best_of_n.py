"""The Gated Best-of-N Sampler inside ComfyUI: its candidates are the stock sampler's, pruned or not."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from .graphs import (
    best_of_n,
    model_of,
    node,
    report,
    saved_latent,
    saved_pictures,
    stock,
    with_sampler,
)
from .server import Outputs, Server, Workflow

LOCKSTEP = ("euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep",
            "gradient_estimation")  # fmt: skip
ONE_BY_ONE = ("euler_ancestral", "dpmpp_2m_sde", "lcm", "uni_pc", "euler_cfg_pp", "dpm_adaptive")


def check_kept_are_the_stock_sampler_s(
    server: Server, graph: Workflow, outputs: Outputs, *, guider: list[Any] | None = None
) -> None:
    """Every kept latent is, bit for bit, what SamplerCustomAdvanced makes with that candidate's seed."""
    ours = saved_latent(server, outputs)
    kept = [row for row in report(outputs)["candidates"] if row["kept"]]
    assert len(kept) == len(ours)
    for row in kept:
        theirs = saved_latent(server, server.run(stock(graph, row["seed"], guider=guider)))
        assert torch.equal(ours[row["rank"] - 1 : row["rank"]], theirs), row


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
    assert sorted(row["seed"] for row in report(outputs)["candidates"] if row["kept"]) == [11, 12]
    check_kept_are_the_stock_sampler_s(comfyui, graph, outputs)


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
    assert "micro_batch 1, since a prompt, reference or mask is a batch" in comfyui.log()
    check_kept_are_the_stock_sampler_s(comfyui, graph, outputs)


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
    assert report(outputs)["survivors_go_on"] == "from their first step"
    check_kept_are_the_stock_sampler_s(comfyui, graph, outputs, guider=["cfg", 0])


def test_several_candidates_under_cfg_are_the_stock_sampler_s(comfyui: Server) -> None:
    graph = with_sampler("dpmpp_2m")
    graph["negative"] = node("CLIPTextEncode", clip=["pocket", 1], text="a robot")
    graph["cfg"] = node(
        "CFGGuider", model=model_of(graph), positive=["positive", 0], negative=["negative", 0], cfg=2.0
    )
    wanted = {"candidates": 4, "keep": 2, "pruning": True, "pruning_plan": "2:3", "model": ["cfg", 0]}
    outputs = comfyui.run(best_of_n(graph, **wanted, positive=None))
    assert report(outputs)["survivors_go_on"] == "in place"
    check_kept_are_the_stock_sampler_s(comfyui, graph, outputs, guider=["cfg", 0])


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
