"""Workflows in API format for the tests, built from few parts."""

from __future__ import annotations

import io
import json
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load

from .server import Outputs, Server, Workflow

POCKET_BACKBONE = "pocket (packaged, toy figures)"
LITE0_BACKBONE = "lite0 (packaged)"
SCALE, SHIFT = 0.3611, 0.1159  # FLUX's latents: (raw - shift) * scale
OWN = {"tau_s": -1.0, "tau_v": -1.0, "pooling": 0}


NUMBERS = count()


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow in API format; what saves something is made new, so that it is not remembered."""
    if "filename_prefix" in inputs:
        inputs["filename_prefix"] += f"-{next(NUMBERS)}"
    return {"class_type": class_type, "inputs": inputs}


def pocket(
    *, variant: str = "kontext", figure: int = 0, lora: str = "", prompt: str | None = None
) -> Workflow:
    """The pocket model ("model"), its prompt with the reference latent ("positive"), schedule and latent."""
    graph = {
        "pocket": node("DivRL_LoadPocketKontext", variant=variant, figure=figure),
        "text": node("CLIPTextEncode", clip=["pocket", 1], text=["pocket", 5] if prompt is None else prompt),
        "encoded": node("VAEEncode", pixels=["pocket", 3], vae=["pocket", 2]),
        "referred": node("ReferenceLatent", conditioning=["text", 0], latent=["encoded", 0]),
        "positive": node("FluxGuidance", conditioning=["referred", 0], guidance=2.5),
        "sampler": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["pocket", 0], scheduler="simple", steps=6, denoise=1.0),
        "latent": node("EmptySD3LatentImage", width=128, height=128, batch_size=1),
        "backbone": node("DivRL_LoadRewardBackbone", backbone=POCKET_BACKBONE),
    }
    if lora:
        graph["model"] = node(
            "LoraLoaderModelOnly",
            model=["pocket", 0],
            lora_name=f"divrl-pocket-{lora}.safetensors",
            strength_model=1.0,
        )
    return graph


def model_of(graph: Workflow) -> list[Any]:
    """The last model of a graph: with its LoRA, where it has one."""
    return ["model" if "model" in graph else "pocket", 0]


def with_sampler(name: str, *, figure: int = 0) -> Workflow:
    """The pocket Kontext with the explore LoRA, whose candidates differ, and a sampler of ComfyUI's."""
    graph = pocket(lora="explore", figure=figure)
    graph["sampler"] = node("KSamplerSelect", sampler_name=name)
    return graph


def best_of_n(graph: Workflow, **changes: Any) -> Workflow:
    """The graph with a Gated Best-of-N Sampler ("best") and what it gave, saved."""
    inputs = {
        "model": model_of(graph), "positive": ["positive", 0], "sampler": ["sampler", 0], "sigmas": ["sigmas", 0],
        "latent": ["latent", 0], "vae": ["pocket", 2], "reference": ["pocket", 3], "backbone": ["backbone", 0],
        "reference_mask": ["pocket", 4], "noise_seed": 5, "candidates": 3, "keep": 3, "mode": "reward", "gate": -1.0,
        "penalty": 5.0, "pruning": False, "pruning_plan": "auto", "foreseen_by": "auto", "micro_batch": 1, **OWN,
        **changes,
    }  # fmt: skip
    return {
        **graph,
        "best": node(
            "DivRL_GatedBestOfN", **{key: value for key, value in inputs.items() if value is not None}
        ),
        "report": node("PreviewAny", source=["best", 3]),
        "latents": node("SaveLatent", samples=["best", 1], filename_prefix="best"),
        "kept": node("SaveImage", images=["best", 0], filename_prefix="kept"),
    }


def stock(graph: Workflow, seed: int, *, guider: list[Any] | None = None) -> Workflow:
    """The graph with ComfyUI's own sampler, its latent saved."""
    own = (
        {} if guider else {"guider": node("BasicGuider", model=model_of(graph), conditioning=["positive", 0])}
    )
    return {
        **graph,
        **own,
        "noise": node("RandomNoise", noise_seed=seed),
        "stock": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=guider or ["guider", 0], sampler=["sampler", 0],
            sigmas=["sigmas", 0], latent_image=["latent", 0],
        ),
        "latents": node("SaveLatent", samples=["stock", 0], filename_prefix="stock"),
    }  # fmt: skip


def saved_latent(server: Server, outputs: Outputs, name: str = "latents") -> torch.Tensor:
    """What SaveLatent wrote, (B, C, h, w)."""
    entry = outputs[name]["latents"][0]
    folder = server.base / entry["type"] / entry["subfolder"]
    return load((folder / entry["filename"]).read_bytes())["latent_tensor"]


def saved_pictures(server: Server, outputs: Outputs, name: str = "kept") -> list[Image.Image]:
    """What SaveImage or PreviewImage wrote."""
    return [Image.open(io.BytesIO(server.file(entry))).convert("RGB") for entry in outputs[name]["images"]]


def report(outputs: Outputs, name: str = "report") -> dict[str, Any]:
    """The JSON that PreviewAny showed."""
    return json.loads(outputs[name]["text"][0])


def put_picture(server: Server, picture: Image.Image, name: str) -> str:
    """A picture in the server's input folder; its name there."""
    path: Path = server.base / "input" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return name
