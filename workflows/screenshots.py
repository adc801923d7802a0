"""`python workflows/screenshots.py [NAME ...]`: the example workflows in ComfyUI's real pages, checked and pictured.

Every workflow is opened; its API file must be what the page would send. The pocket ones are run: docs/comfyui gets a
picture of the canvas, and the template browser a thumbnail, which the full-size workflow shares. The others must lack
nothing but the user's files.

pocket-pictures/ holds what the pocket Kontext draws of figure 28 with the LoRA divrl-pocket-explore at the seeds in
the names, by pocket-best-of-n-kontext without pruning.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageEnhance

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.comfyui.install import ensure_comfyui, ensure_frontend
from tests.comfyui.server import Server, Workflow

HERE = Path(__file__).resolve().parent
PICTURES = HERE.parent / "docs" / "comfyui"
POCKET = "pocket-"
PAGE_PX = (1800, 1000)
THUMBNAIL_PX, GAP_PX = 400, 6
QUALITY = 88
PAPER, KEPT = "#fbfaf7", "#0072b2"

LOG = logging.getLogger(__name__)


class Pictures:
    """Pictures that links of a workflow hold; what was run before comes from the server's cache."""

    def __init__(self, server: Server, api: Workflow) -> None:
        self._server, self._api = server, api

    def of(self, kind: str, output: int) -> list[Image.Image]:
        """The pictures at an output of the node of a kind."""
        link = {"class_type": "PreviewImage", "inputs": {"images": [self._node(kind), output]}}
        shown = self._server.run({**self._api, "shown": link})["shown"]["images"]
        return [Image.open(io.BytesIO(self._server.file(entry))).convert("RGB") for entry in shown]

    def text(self, kind: str, output: int) -> Any:
        """What the JSON at an output says."""
        link = {"class_type": "PreviewAny", "inputs": {"source": [self._node(kind), output]}}
        return json.loads(self._server.run({**self._api, "shown": link})["shown"]["text"][0])

    def _node(self, kind: str) -> str:
        return next(number for number, node in self._api.items() if node["class_type"] == kind)


def best_of_n_thumbnail(pictures: Pictures) -> Image.Image:
    """The reference and all candidates: those not kept are pale."""
    candidates = pictures.of("DivRL_GatedBestOfN", 4)
    rows = pictures.text("DivRL_GatedBestOfN", 3)["candidates"]
    shown = [
        framed(picture, KEPT) if row["kept"] else pale(picture)
        for picture, row in zip(candidates, rows, strict=True)
    ]
    return tiled([*pictures.of("DivRL_LoadPocketKontext", 3), *shown], columns=3)


def diverse_set_thumbnail(pictures: Pictures) -> Image.Image:
    """The reference and the three kept."""
    return tiled(
        [*pictures.of("DivRL_LoadPocketKontext", 3), *pictures.of("DivRL_GatedBestOfN", 0)], columns=2
    )


def width_reference_thumbnail(pictures: Pictures) -> Image.Image:
    """Four samples around the reference that they were made from."""
    sheet = tiled(pictures.of("VAEDecode", 0), columns=2)
    side = THUMBNAIL_PX * 3 // 8
    (reference,) = pictures.of("DivRL_LoadPocketKontext", 3)
    inset = framed(reference.resize((side, side), Image.Resampling.LANCZOS), PAPER)
    sheet.paste(inset, ((sheet.width - side) // 2, (sheet.height - side) // 2))
    return sheet


def scores_thumbnail(pictures: Pictures) -> Image.Image:
    """Two pictures above the maps of where their identity fails."""
    maps = pictures.of("DivRL_StructureAndIdentityMaps", 2)
    shown = pictures.of("LoadImageDataSetFromFolder", 0)
    failing = sorted(range(len(maps)), key=lambda index: -colourfulness(maps[index]))[:2]
    return tiled([*(shown[index] for index in failing), *(maps[index] for index in failing)], columns=2)


THUMBNAILS: dict[str, Callable[[Pictures], Image.Image]] = {
    "best-of-n-kontext": best_of_n_thumbnail,
    "kontext-divrl-lora": diverse_set_thumbnail,
    "flux-dev-width-reference": width_reference_thumbnail,
    "score-a-folder": scores_thumbnail,
}


def tiled(pictures: Sequence[Image.Image], *, columns: int) -> Image.Image:
    """Pictures in a square, each of one size."""
    side = (THUMBNAIL_PX - (columns - 1) * GAP_PX) // columns
    sheet = Image.new("RGB", (THUMBNAIL_PX, THUMBNAIL_PX), PAPER)
    for number, picture in enumerate(pictures):
        row, column = divmod(number, columns)
        place = (column * (side + GAP_PX), row * (side + GAP_PX))
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), place)
    return sheet


def framed(picture: Image.Image, colour: str) -> Image.Image:
    """The picture with a frame inside its edges."""
    result = picture.copy()
    corner = (picture.width - 1, picture.height - 1)
    ImageDraw.Draw(result).rectangle((0, 0, *corner), outline=colour, width=max(3, picture.width // 28))
    return result


def pale(picture: Image.Image) -> Image.Image:
    """The picture, halfway to paper."""
    return Image.blend(ImageEnhance.Color(picture).enhance(0.4), Image.new("RGB", picture.size, PAPER), 0.5)


def colourfulness(picture: Image.Image) -> float:
    """Mean saturation, 0 to 255."""
    levels = picture.convert("HSV").getchannel("S").histogram()
    return sum(level * count for level, count in enumerate(levels)) / sum(levels)


async def photograph(server: Server, names: Sequence[str]) -> None:
    """Opens, checks, runs and photographs workflows. Raises RuntimeError for one that is not as it should be."""
    from tests.comfyui.browser import Canvas  # needs aiohttp, which ComfyUI's environment has

    canvas = await Canvas.open(server.url, *PAGE_PX)
    try:
        for name in names:
            api = json.loads((HERE / "api" / f"{name}.json").read_text("utf-8"))
            await canvas.load(json.loads((HERE / f"{name}.json").read_text("utf-8")))
            sent = {
                number: {"class_type": node["class_type"], "inputs": node["inputs"]}
                for number, node in (await canvas.to_api()).items()
            }
            if sent != api:
                raise RuntimeError(f"{name}: the page would send another workflow than api/{name}.json")
            red = set(await canvas.error_nodes())
            if not name.startswith(POCKET):
                needy = {number for number, node in api.items() if needs_files(node)}
                if red != needy:
                    raise RuntimeError(f"{name}: nodes {sorted(red)} are red, not {sorted(needy)}")
                LOG.info("%s: lacks nothing but files", name)
                continue
            start = time.monotonic()
            status = (await canvas.queue_and_wait())["status"]["status_str"]
            seconds = time.monotonic() - start
            if red or status != "success" or await canvas.error_nodes() or canvas.page_errors:
                raise RuntimeError(
                    f"{name}: {status}, red: {await canvas.error_nodes()}, {canvas.page_errors}"
                )
            LOG.info("%s: %.1f s, shown at scale %.2f", name, seconds, await canvas.fit())
            with tempfile.TemporaryDirectory() as folder:
                page = Path(folder) / "page.png"
                await canvas.screenshot(page)
                Image.open(page).convert("RGB").save(PICTURES / f"{name}.jpg", quality=QUALITY, optimize=True)
            short = name.removeprefix(POCKET)
            thumbnail = THUMBNAILS[short](Pictures(server, api))
            for of in (name, short):
                thumbnail.save(HERE / f"{of}.jpg", quality=QUALITY, optimize=True)
    finally:
        await canvas.close()


def needs_files(node: dict[str, Any]) -> bool:
    """Whether a node names files that this server does not have."""
    return any(
        isinstance(value, str) and value.endswith((".safetensors", ".png"))
        for value in node["inputs"].values()
    )


def main() -> int:
    """Photographs the workflows named, or all, in ComfyUI's own interpreter."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a workflow, without .json; default: all")
    names = parser.parse_args().names or sorted(path.stem for path in HERE.glob("*.json"))
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    comfyui = ensure_comfyui()
    if Path(sys.prefix) != comfyui.python.parents[1]:
        return subprocess.call([str(comfyui.python), __file__, *sys.argv[1:]])
    ensure_frontend(comfyui)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as base:
        shutil.copytree(HERE / "pocket-pictures", Path(base) / "input" / "divrl-pocket")
        with Server(comfyui, Path(base), frontend=True) as server:
            asyncio.run(photograph(server, names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
