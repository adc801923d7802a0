"""The example workflows: `python workflows/make.py` writes their canvas and API files again.

Each graph stands here once, for FLUX.1 and for the pocket models; canvas.py lays it out. Pictures: screenshots.py.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.comfyui.install import ensure_comfyui
from tests.comfyui.server import Server
from workflows import notes
from workflows.canvas import Graph, Inputs, Link
from workflows.notes import CLIP_L, DEV, KONTEXT, T5, VAE, stored

HERE = Path(__file__).resolve().parent
POCKET_SUPPRESS, POCKET_CFM = "divrl-pocket-suppress.safetensors", "divrl-pocket-masked-cfm.safetensors"
LITE0, TOY = "lite0 (packaged)", "pocket (packaged, toy figures)"
FIGURE = 28  # of the pocket world; it shows more than most
SHOWN_PX = 240  # the least that a box takes for pictures
THRESHOLDS: Inputs = {"tau_s": -1.0, "tau_v": -1.0, "pooling": 0}  # the backbone's own
GATE: Inputs = {"gate": -1.0, "penalty": 5.0}  # the backbone's own; a choice of ours


class Subject(NamedTuple):
    """What pictures are compared with, and the features that serve for it."""

    reference: Link
    mask: Link | None
    backbone: str


class Source(NamedTuple):
    """Where a graph takes its models, its prompt and its subject from."""

    model: Link
    clip: Link
    vae: Link
    prompt: Any
    subject: Subject
    is_full: bool


def pocket(graph: Graph, words: str, *, variant: str = "kontext", lora: str = "") -> Source:
    """The models that come with the pack, and one of their figures."""
    graph.column(380)
    graph.group("Model and reference")
    loaded = graph.node("DivRL_LoadPocketKontext", variant=variant, figure=FIGURE)
    model = with_lora(graph, loaded["MODEL"], lora)
    subject = Subject(loaded["reference"], loaded["mask"], TOY)
    graph.node("PreviewImage", extra_px=SHOWN_PX, title="Reference", images=subject.reference)
    graph.note(notes.with_pocket(words))
    return Source(model, loaded["CLIP"], loaded["VAE"], loaded["prompt"], subject, is_full=False)


def flux(graph: Graph, words: str, *, unet: str, lora: str = "") -> Source:
    """FLUX.1 of full size, and a photograph."""
    graph.column(420)
    graph.group("Model")
    model = graph.node("UNETLoader", files=stored(unet), unet_name=unet, weight_dtype="default")["MODEL"]
    model = with_lora(graph, model, lora)
    clips: Inputs = {"clip_name1": CLIP_L, "clip_name2": T5, "type": "flux", "device": "default"}
    clip = graph.node("DualCLIPLoader", files=stored(CLIP_L, T5), **clips)["CLIP"]
    vae = graph.node("VAELoader", files=stored(VAE), vae_name=VAE)["VAE"]
    graph.note(notes.with_files(words, unet, CLIP_L, T5, VAE, lora))
    graph.column(340)
    graph.group("Reference")
    reference = graph.node("LoadImage", extra_px=300, title="Reference", image="reference.png")["IMAGE"]
    return Source(model, clip, vae, "a fox in the snow", Subject(reference, None, LITE0), is_full=True)


def with_lora(graph: Graph, model: Link, name: str) -> Link:
    """The model, with a LoRA where one is named."""
    if not name:
        return model
    return graph.node("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)["MODEL"]


def best_of_n(graph: Graph, source: Source, *, mode: str, keep: int, prefix: str) -> None:
    """Kontext's reference in the prompt, the sampler node, and what it keeps."""
    if not source.is_full:
        graph.column(360)
    graph.group("Prompt")
    text = graph.node("CLIPTextEncode", extra_px=60, clip=source.clip, text=source.prompt)
    pixels = source.subject.reference
    if source.is_full:
        pixels = graph.node("FluxKontextImageScale", image=pixels)["IMAGE"]
    encoded = graph.node("VAEEncode", pixels=pixels, vae=source.vae)
    read = graph.node("ReferenceLatent", conditioning=text["CONDITIONING"], latent=encoded["LATENT"])
    positive = graph.node("FluxGuidance", conditioning=read["CONDITIONING"], guidance=2.5)
    if source.is_full:
        graph.column(340)
    graph.group("Sampling")
    sampling: Inputs = steps(graph, source.model) | {"latent": empty(graph, 1024 if source.is_full else 128)}
    judging = reward(graph, source.subject)
    graph.column(760)
    graph.group("Best of N")
    choice: Inputs = {"noise_seed": 0, "candidates": 8, "keep": keep, "mode": mode}
    cost: Inputs = {"pruning": True, "pruning_plan": "auto", "foreseen_by": "auto", "micro_batch": 1}
    models: Inputs = {"model": source.model, "positive": positive["CONDITIONING"], "vae": source.vae}
    best = graph.node(
        "DivRL_GatedBestOfN", extra_px=520, **models, **sampling, **judging, **GATE, **choice, **cost
    )
    graph.column(420)
    graph.group("Kept")
    graph.node(
        "SaveImage",
        extra_px=560 if source.is_full else SHOWN_PX,
        images=best["images"],
        filename_prefix=prefix,
    )
    graph.node("PreviewAny", extra_px=300, title="Scores as text", source=best["scores"])


def width_reference(graph: Graph, source: Source, *, prefix: str) -> None:
    """A reference along width, four samples, and their scores."""
    graph.column(340)
    graph.group("Prompt")
    text = graph.node("CLIPTextEncode", extra_px=60, clip=source.clip, text=source.prompt)
    guided = graph.node("FluxGuidance", conditioning=text["CONDITIONING"], guidance=1.0)["CONDITIONING"]
    graph.group("Width reference")
    latent = empty(graph, 512 if source.is_full else 128)
    image: Inputs = {"vae": source.vae, "image": source.subject.reference, "latent": latent}
    wide = graph.node("DivRL_WidthReferenceFromImage", model=source.model, conditioning=guided, **image)
    four = graph.node("RepeatLatentBatch", samples=latent, amount=4)["LATENT"]
    graph.column(360)
    graph.group("Sampling")
    noise = graph.node("RandomNoise", noise_seed=0)["NOISE"]
    guider = graph.node("BasicGuider", model=wide["MODEL"], conditioning=wide["CONDITIONING"])["GUIDER"]
    sampling: Inputs = {"noise": noise, "guider": guider, **steps(graph, wide["MODEL"]), "latent_image": four}
    sampled = graph.node("SamplerCustomAdvanced", **sampling)["output"]
    images = graph.node("VAEDecode", samples=sampled, vae=source.vae)["IMAGE"]
    judging = reward(graph, source.subject)
    graph.column(760)
    graph.group("Scores")
    scored = graph.node("DivRL_ScoreImages", extra_px=320, images=images, **judging, **GATE)
    graph.node("SaveImage", extra_px=300, images=scored["images"], filename_prefix=prefix)


def scores_and_maps(graph: Graph, subject: Subject, *, folder: str) -> None:
    """Scores and maps of the pictures in a folder."""
    graph.column(340)
    graph.group("Pictures")
    images = graph.node("LoadImageDataSetFromFolder", folder=folder)["images"]
    batch = graph.node("RebatchImages", images=images, batch_size=16)["IMAGE"]
    judging = reward(graph, subject)
    graph.column(760)
    graph.group("Scores")
    scored = graph.node("DivRL_ScoreImages", extra_px=480, images=images, **judging, **GATE)
    graph.node("PreviewAny", extra_px=200, title="Scores as text", source=scored["json"])
    graph.column(860)
    graph.group("Structure and identity")
    maps = graph.node("DivRL_StructureAndIdentityMaps", extra_px=SHOWN_PX, images=batch, **judging)
    graph.node("PreviewImage", extra_px=320, title="Structure", images=maps["structure"])
    graph.node("PreviewImage", extra_px=SHOWN_PX, title="Identity", images=maps["identity"])


def steps(graph: Graph, model: Link) -> Inputs:
    """Euler in 28 steps."""
    sampler = graph.node("KSamplerSelect", sampler_name="euler")["SAMPLER"]
    schedule = graph.node("BasicScheduler", model=model, scheduler="simple", steps=28, denoise=1.0)
    return {"sampler": sampler, "sigmas": schedule["SIGMAS"]}


def empty(graph: Graph, side: int) -> Link:
    """The latent of one picture, `side` px wide and high."""
    return graph.node("EmptySD3LatentImage", width=side, height=side, batch_size=1)["LATENT"]


def reward(graph: Graph, subject: Subject) -> Inputs:
    """The backbone in a group of its own; what the nodes that score take."""
    graph.group("Reward")
    backbone = graph.node("DivRL_LoadRewardBackbone", backbone=subject.backbone)["backbone"]
    mask: Inputs = {"reference_mask": subject.mask} if subject.mask else {}
    return {"reference": subject.reference, **mask, "backbone": backbone, **THRESHOLDS}


def best_of_n_kontext(graph: Graph, is_pocket: bool) -> None:
    """The best of several pictures of Kontext."""
    make = pocket if is_pocket else partial(flux, unet=KONTEXT)
    best_of_n(graph, make(graph, notes.BEST_OF_N), mode="reward", keep=2, prefix="divrl/best-of-n")


def kontext_divrl_lora(graph: Graph, is_pocket: bool) -> None:
    """A diverse set of a Kontext with a DivRL LoRA."""
    small = partial(pocket, lora=POCKET_SUPPRESS)
    make = small if is_pocket else partial(flux, unet=KONTEXT, lora="my-divrl-lora.safetensors")
    best_of_n(graph, make(graph, notes.LORA), mode="diverse set", keep=3, prefix="divrl/diverse-set")


def flux_dev_width_reference(graph: Graph, is_pocket: bool) -> None:
    """A FLUX.1-dev that reads a reference along width."""
    small = partial(pocket, variant="text to image", lora=POCKET_CFM)
    make = small if is_pocket else partial(flux, unet=DEV, lora="my-masked-cfm-lora.safetensors")
    width_reference(graph, make(graph, notes.WIDTH), prefix="divrl/width-reference")


def score_a_folder(graph: Graph, is_pocket: bool) -> None:
    """Scores and maps of finished pictures."""
    if is_pocket:
        subject = pocket(graph, f"{notes.SCORE}\n\n{notes.POCKET_FOLDER}").subject
        scores_and_maps(graph, subject, folder="divrl-pocket")
        return
    graph.column(380)
    graph.group("Reference")
    reference = graph.node("LoadImage", extra_px=SHOWN_PX, title="Reference", image="reference.png")["IMAGE"]
    masked: Inputs = {"image": "reference-mask.png", "channel": "red"}
    mask = graph.node("LoadImageMask", extra_px=SHOWN_PX, title="Reference mask", **masked)["MASK"]
    graph.note(f"{notes.SCORE}\n\n{notes.FOLDER}")
    scores_and_maps(graph, Subject(reference, mask, LITE0), folder="my-pictures")


WORKFLOWS: dict[str, Callable[[Graph, bool], None]] = {
    "best-of-n-kontext": best_of_n_kontext,
    "kontext-divrl-lora": kontext_divrl_lora,
    "flux-dev-width-reference": flux_dev_width_reference,
    "score-a-folder": score_a_folder,
}


def main() -> None:
    """Writes every workflow, full-size and pocket, in both formats."""
    graphs: dict[str, Graph] = {}
    for name, draw in WORKFLOWS.items():
        draw(graphs.setdefault(name, Graph()), False)
        draw(graphs.setdefault(f"pocket-{name}", Graph()), True)
    with tempfile.TemporaryDirectory() as base, Server(ensure_comfyui(), Path(base)) as server:
        told = {kind: server.object_info(kind) for graph in graphs.values() for kind in graph.kinds()}
    for name, graph in graphs.items():
        write(HERE / f"{name}.json", graph.to_canvas(told))
        write(HERE / "api" / f"{name}.json", graph.to_api(told))


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes readable JSON."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
