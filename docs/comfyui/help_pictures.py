"""The pictures of the help pages in web/docs: each node run on the pocket model by a real ComfyUI.

python -m docs.comfyui.help_pictures [NAME ...]      from the repository's root; without a name all of them
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from divrl_core.evaluation.lettering import font_for, wrap_text
from divrl_core.evaluation.sheets import LIGHT, ComparisonRow, SheetRow, comparison_sheet, contact_sheet
from divrl_core.models.panels import letterbox
from docs.comfyui.toy_segformer import train_segformer
from tests.comfyui import graphs
from tests.comfyui.graphs import LITE0_BACKBONE, OWN, POCKET_BACKBONE, model_of, node, saved_pictures
from tests.comfyui.install import ensure_comfyui
from tests.comfyui.server import REPOSITORY, Server, Workflow

LOG = logging.getLogger(__name__)
FOLDER = REPOSITORY / "web" / "docs"
WIDEST_PX, QUALITIES, MOST_BYTES = 1100, range(88, 70, -2), 150_000
STEPS, SEEDS = 28, (1, 2, 3, 4)
SEED_NAMES = [f"seed {seed}" for seed in SEEDS]
MARGIN_PX, GAP_PX, TILE_PX, TEXT_PX, LINE_PX = 26, 14, 248, 16, 20


def score_images(server: Server) -> Image.Image:
    """Score Images' sheet: nine pictures that the explore LoRA made of figure 0."""
    graph = explored(count=9)
    graph["score"] = node("DivRL_ScoreImages", **compared(), gate=-1.0, penalty=5.0)
    return shown(server, graph, "score")[0]


def maps(server: Server) -> Image.Image:
    """What Structure and Identity Maps shows: both its sheets, one above the other."""
    return shown(server, mapped(POCKET_BACKBONE), "maps")[0]


def backbones(server: Server) -> Image.Image:
    """The identity sheet of the same pictures under both packaged backbones."""
    parts = []
    for name in (POCKET_BACKBONE, LITE0_BACKBONE):
        graph = mapped(name)
        graph["identity"] = node("PreviewImage", images=["maps", 1])
        sheet = shown(server, graph, "identity")[0]
        heading = Image.new("RGB", (sheet.width, MARGIN_PX + LINE_PX), LIGHT.paper)
        ImageDraw.Draw(heading).text(
            (MARGIN_PX, MARGIN_PX), f"backbone: {name}", LIGHT.ink, font_for(name, TEXT_PX)
        )
        parts += [heading, sheet]
    return stacked(parts)


def best_of_n(server: Server) -> Image.Image:
    """The sampler's sheet: eight candidates of the explore LoRA, losers stopped early, two kept."""
    graph = pocket(steps=14, figure=2, lora="explore")
    choice = {"candidates": 8, "keep": 2, "mode": "diverse set", "pruning": True, "noise_seed": SEEDS[0]}
    return shown(server, graphs.best_of_n(graph, **choice), "best")[0]


def width_reference(server: Server) -> Image.Image:
    """The text-to-image model on the same seeds: by itself, with the node alone, with the node and its LoRA."""
    cases = {
        "no reference": text_to_image(lora="", is_wide=False),
        "node, no LoRA": text_to_image(lora="", is_wide=True),
        "node and LoRA": text_to_image(lora="masked-cfm", is_wide=True),
    }
    results = {name: sampled(server, graph) for name, graph in cases.items()}
    row = ComparisonRow(label="figure 0", reference=reference_of(server, 0)[0], results=results)
    return comparison_sheet([row], seeds=SEED_NAMES, title="Width Reference and the masked-CFM LoRA")


def width_reference_from_image(server: Server) -> Image.Image:
    """A tall reference, the panel that the node makes of it, and what is sampled with it."""
    graph = text_to_image(lora="masked-cfm", is_wide=True)
    graph["tall"] = node("ImageCrop", image=["pocket", 3], width=88, height=128, x=20, y=0)
    graph["wide"] = node(
        "DivRL_WidthReferenceFromImage", model=["model", 0], conditioning=["text", 0], vae=["pocket", 2],
        image=["tall", 0], latent=["latent", 0],
    )  # fmt: skip
    graph["positive"]["inputs"]["conditioning"] = ["wide", 1]
    tall = reference_of(server, 0)[0].crop((20, 0, 108, 128))
    panel = letterbox(torch.from_numpy(np.asarray(tall) / np.float32(255)).movedim(-1, 0), 128, 128)
    row = SheetRow(label="", reference=tall, results=[panel, *sampled(server, graph)])
    columns = [f"{tall.width} x {tall.height} px", "in a 128 x 128 panel", *SEED_NAMES]
    return contact_sheet([row], columns=columns, title="A tall reference for a square picture")


def load_pocket_kontext(server: Server) -> Image.Image:
    """Figures 0 to 7 as references, with the prompts that come with them."""
    row_px = TILE_PX + 3 * LINE_PX + GAP_PX
    size = 2 * MARGIN_PX + 4 * (TILE_PX + GAP_PX) - GAP_PX, MARGIN_PX + 2 * row_px
    sheet = Image.new("RGB", size, LIGHT.paper)
    for figure in range(8):
        picture, prompt = reference_of(server, figure)
        left, top = MARGIN_PX + figure % 4 * (TILE_PX + GAP_PX), MARGIN_PX + figure // 4 * row_px
        sheet.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), (left, top))
        words = "\n".join(wrap_text(f"{figure}: {prompt}", TEXT_PX, TILE_PX, 2))
        ImageDraw.Draw(sheet).text((left, top + TILE_PX + 6), words, LIGHT.ink, font_for(words, TEXT_PX))
    return sheet


def segment_subject(server: Server) -> Image.Image:
    """Four figures above their masks, by a Segformer trained here on other figures."""
    train_segformer(server.base / "models" / "divrl_segmentation" / "toy-figures")
    pairs = []
    for figure in (0, 2, 5, 7):
        graph = {"pocket": node("DivRL_LoadPocketKontext", variant="kontext", figure=figure)}
        graph["mask"] = node(
            "DivRL_SegmentSubject", image=["pocket", 3], model="toy-figures", labels="", threshold=0.5,
            normalisation="imagenet", output="probability",
        )  # fmt: skip
        graph["flags"] = node("MaskToImage", mask=["mask", 0])
        graph["kept"] = node("PreviewImage", images=["flags", 0])
        pairs.append((reference_of(server, figure)[0], shown(server, graph, "kept")[0]))
    size = 2 * MARGIN_PX + 4 * (TILE_PX + GAP_PX) - GAP_PX, 2 * MARGIN_PX + 2 * TILE_PX + GAP_PX
    sheet = Image.new("RGB", size, LIGHT.paper)
    for column, pair in enumerate(pairs):
        for row, picture in enumerate(pair):
            place = (MARGIN_PX + column * (TILE_PX + GAP_PX), MARGIN_PX + row * (TILE_PX + GAP_PX))
            sheet.paste(picture.resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS), place)
    return sheet


def pocket(*, steps: int = STEPS, **options: Any) -> Workflow:
    """The pocket model with its prompt, in so many steps."""
    graph = graphs.pocket(**options)
    graph["sigmas"]["inputs"]["steps"] = steps
    return graph


def explored(*, count: int) -> Workflow:
    """Pictures ("decoded") of figure 0 by the stock sampler with the explore LoRA."""
    graph = pocket(lora="explore")
    graph["latent"]["inputs"]["batch_size"] = count
    return decoded(graphs.stock(graph, SEEDS[0]))


def mapped(backbone: str) -> Workflow:
    """The maps ("maps") of three pictures under a backbone."""
    graph = explored(count=3)
    graph["backbone"] = node("DivRL_LoadRewardBackbone", backbone=backbone)
    graph["maps"] = node("DivRL_StructureAndIdentityMaps", **compared())
    return graph


def compared() -> dict[str, Any]:
    """What a node that scores compares: the pictures with the figure inside its mask."""
    inputs = {"images": ["decoded", 0], "reference": ["pocket", 3], "reference_mask": ["pocket", 4]}
    return {**inputs, "backbone": ["backbone", 0], **OWN}


def text_to_image(*, lora: str, is_wide: bool) -> Workflow:
    """The pocket's text-to-image model with or without the LoRA, and with or without its reference along width."""
    graph = pocket(variant="text to image", lora=lora)
    prompt = ["referred" if is_wide else "text", 0]
    graph["positive"] = node("FluxGuidance", conditioning=prompt, guidance=1.0)
    if is_wide:
        graph["wide"] = node("DivRL_WidthReference", model=model_of(graph))
    model = ["wide", 0] if is_wide else model_of(graph)
    return {**graph, "guider": node("BasicGuider", model=model, conditioning=["positive", 0])}


def sampled(server: Server, graph: Workflow) -> list[Image.Image]:
    """A picture for each seed."""
    pictures: list[Image.Image] = []
    for seed in SEEDS:
        whole = decoded(graphs.stock(graph, seed, guider=["guider", 0]))
        whole["kept"] = node("PreviewImage", images=["decoded", 0])
        pictures += shown(server, whole, "kept")
    return pictures


def decoded(graph: Workflow) -> Workflow:
    """What the stock sampler made, as pictures."""
    del graph["latents"]
    return {**graph, "decoded": node("VAEDecode", samples=["stock", 0], vae=["pocket", 2])}


def reference_of(server: Server, figure: int) -> tuple[Image.Image, str]:
    """A figure as Load Pocket Kontext shows it, and its prompt."""
    loader = node("DivRL_LoadPocketKontext", variant="kontext", figure=figure)
    graph = {"pocket": loader, "prompt": node("PreviewAny", source=["pocket", 5])}
    outputs = server.run({**graph, "kept": node("PreviewImage", images=["pocket", 3])})
    return saved_pictures(server, outputs)[0], outputs["prompt"]["text"][0]


def shown(server: Server, graph: Workflow, name: str) -> list[Image.Image]:
    """What a node shows on itself."""
    return saved_pictures(server, server.run(graph), name)


def stacked(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one above the other."""
    return Image.fromarray(np.concatenate([np.asarray(part) for part in parts]))


def main() -> None:
    """Makes the pictures named on the command line, or all."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    makers = [score_images, maps, backbones, best_of_n, load_pocket_kontext]
    makers += [width_reference, width_reference_from_image, segment_subject]
    with tempfile.TemporaryDirectory() as base, Server(ensure_comfyui(), Path(base)) as server:
        for make in makers:
            path = FOLDER / f"{make.__name__.replace('_', '-')}.jpg"
            if not sys.argv[1:] or path.stem in sys.argv[1:]:
                (picture := make(server)).thumbnail((WIDEST_PX, WIDEST_PX), Image.Resampling.LANCZOS)
                for quality in QUALITIES:  # maps are noise to JPEG: theirs come out worst
                    picture.save(path, quality=quality, optimize=True)
                    if path.stat().st_size <= MOST_BYTES:
                        break
                LOG.info("%s: %d x %d, %d bytes", path.name, *picture.size, path.stat().st_size)


if __name__ == "__main__":
    main()
