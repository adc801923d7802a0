"""A run that is stopped ends soon, and the server goes on. How soon was measured: docs/comfyui.md."""

from __future__ import annotations

import time

import pytest

from .graphs import best_of_n, node, pocket, saved_pictures
from .server import Server

BEGAN = "sampling 32 candidates"  # what the node says in the log when it begins


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_an_interrupted_run_ends_and_the_next_one_runs(comfyui: Server, sampler: str) -> None:
    graph = pocket()
    graph["sampler"] = node("KSamplerSelect", sampler_name=sampler)
    graph["sigmas"] = node("BasicScheduler", model=["pocket", 0], scheduler="simple", steps=60, denoise=1.0)
    before = comfyui.log().count(BEGAN)
    prompt = comfyui.post(best_of_n(graph, candidates=32, keep=2, noise_seed=99))
    deadline = time.monotonic() + 60
    while comfyui.log().count(BEGAN) == before:
        assert time.monotonic() < deadline, comfyui.log()[-2000:]
        time.sleep(0.05)
    comfyui.interrupt()
    entry = comfyui.wait(prompt, timeout=10)  # the whole run has 1,920 steps to go
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert entry["status"]["messages"][-1][1]["node_type"] == "DivRL_GatedBestOfN"
    assert len(saved_pictures(comfyui, comfyui.run(best_of_n(pocket(), candidates=2, keep=2)))) == 2
