"""ComfyUI's real pages in headless Chromium, over the DevTools protocol: load a workflow, run it, photograph it.

    COMFYUI_PYTHON tests/comfyui/browser.py SERVER_URL workflow.json out.png [--run] [--dark] [--size 1600x900]

COMFYUI_PYTHON is the interpreter of ComfyUI's environment, which has aiohttp; Chromium is Debian's `chromium`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp

LOG = logging.getLogger(__name__)

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-port=0"),
)
QUIET_PAGE = {  # no tour, template browser, news or other things over the canvas
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.47.12",
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.AppBuilder.VueNodeSwitchDismissed": True,
    "Comfy.VueNodes.Enabled": False,  # what a new installation has; `settings` may turn it on
    "Comfy.Workflow.Persist": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Toast.DisableReconnectingToast": True,
    "Comfy.Appearance.DisableAnimations": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.Graph.CanvasMenu": False,
}
PROBE = Path(__file__).with_suffix(".js")
SETTLE_SECONDS = 0.4
MARGIN_PX, MENUS_PX = 30.0, 100.0


class Canvas:
    """One page of ComfyUI in a Chromium of its own; made by `open`, ended by `close`."""

    def __init__(self, url: str, session: aiohttp.ClientSession, profile: str) -> None:
        self.url = url.rstrip("/")
        self.page_errors: list[str] = []
        self._margin = MARGIN_PX
        self._session = session
        self._profile = profile
        self._number = 0
        self._process: asyncio.subprocess.Process | None = None
        self._socket: aiohttp.ClientWebSocketResponse | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        width: int = 1600,
        height: int = 900,
        dark: bool = True,
        menus: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> Canvas:
        """Opens the page of a server that has the frontend, and waits until it can take a workflow."""
        canvas = cls(url, aiohttp.ClientSession(), tempfile.mkdtemp(prefix="chromium-"))
        chosen = {**QUIET_PAGE, "Comfy.ColorPalette": "dark" if dark else "light", **(settings or {})}
        try:
            async with canvas._session.post(f"{canvas.url}/settings", json=chosen) as answer:
                answer.raise_for_status()
            await canvas._start(width, height)
            await canvas._until("ready()", 60)
            if menus:
                canvas._margin = MENUS_PX
            else:
                await canvas._probe("hideMenus()")
        except BaseException:
            await canvas.close()
            raise
        return canvas

    async def load(self, workflow: dict[str, Any]) -> None:
        """Opens a workflow in canvas format (with `nodes` and `links`), all of it in view."""
        await self._probe(f"load({json.dumps(workflow)})")
        await asyncio.sleep(SETTLE_SECONDS)
        await self.fit()

    async def queue_and_wait(self, timeout: float = 120.0) -> dict[str, Any]:
        """Runs what is open as the Run button does; the server's history entry once it has ended."""
        prompt_id = await self._probe("queue()")
        if prompt_id is None:
            raise RuntimeError(f"the workflow was refused; red nodes: {await self.error_nodes()}")
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            async with self._session.get(f"{self.url}/history/{prompt_id}") as answer:
                history = await answer.json()
            if prompt_id in history:
                with contextlib.suppress(TimeoutError):  # a node need not show its pictures
                    await self._until("picturesShown()", 5)
                await asyncio.sleep(SETTLE_SECONDS)
                return history[prompt_id]
            await asyncio.sleep(0.1)
        raise TimeoutError(f"the workflow has not ended within {timeout:g} s")

    async def fit(self, largest: float = 1.5) -> float:
        """Moves all nodes and groups into view, at most `largest` times their size; the scale."""
        scale = await self._probe(f"fit({self._margin}, {largest})")
        await asyncio.sleep(SETTLE_SECONDS)
        return scale

    async def to_api(self) -> dict[str, dict[str, Any]]:
        """What is open as the page would send it to the server: API format."""
        return await self._probe("toApi()")

    async def error_nodes(self) -> list[str]:
        """Ids of the nodes that are red: of unknown type, refused by the server, or failed."""
        return await self._probe("redNodes()")

    async def screenshot(self, path: Path) -> None:
        """Writes the page as it is now to a PNG."""
        picture = await self._call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(picture["data"]))

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, awaited where it is a promise."""
        answer = await self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(said(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def close(self) -> None:
        """Ends Chromium and removes its profile."""
        if self._socket is not None:
            with contextlib.suppress(RuntimeError, TypeError):  # it may hang up before it answers
                await self._call("Browser.close")
            await self._socket.close()
        if self._process is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._process.wait(), 10 if self._socket is not None else 0)
            if self._process.returncode is None:
                self._process.kill()
        await self._session.close()
        for _ in range(20):  # its last processes still write for a moment
            shutil.rmtree(self._profile, ignore_errors=True)
            await asyncio.sleep(0.1)
            if not Path(self._profile).exists():
                break

    async def _start(self, width: int, height: int) -> None:
        """Starts Chromium and opens the server's page in it."""
        self._process = await asyncio.create_subprocess_exec(
            *(shutil.which("chromium") or "chromium", *FLAGS, f"--user-data-dir={self._profile}"),
            *(f"--window-size={width},{height}", "about:blank"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        port_file = Path(self._profile) / "DevToolsActivePort"
        end = time.monotonic() + 30
        while not (port_file.exists() and "\n" in port_file.read_text()):
            if time.monotonic() > end or self._process.returncode is not None:
                raise RuntimeError("Chromium did not start")
            await asyncio.sleep(0.05)
        port = port_file.read_text().split()[0]
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (page,) = [target for target in await answer.json() if target["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        await self._call("Runtime.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._call("Emulation.setDeviceMetricsOverride", **size)
        await self._call("Page.enable")
        await self._call("Page.addScriptToEvaluateOnNewDocument", source=PROBE.read_text("utf-8"))
        await self._call("Page.navigate", url=self.url)

    async def _probe(self, call: str) -> Any:
        """The answer of one function of browser.js."""
        return await self.evaluate(f"window.canvasProbe?.{call}")

    async def _until(self, call: str, seconds: float) -> None:
        """Waits until a function of browser.js answers true."""
        end = time.monotonic() + seconds
        while not await self._probe(call):
            if time.monotonic() > end:
                raise TimeoutError(f"{call} was not true within {seconds:g} s; {self.page_errors}")
            await asyncio.sleep(0.1)

    async def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One call of the DevTools protocol; what the page threw meanwhile is kept in `page_errors`."""
        assert self._socket is not None
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("method") == "Runtime.exceptionThrown":
                self.page_errors.append(said(message["params"]["exceptionDetails"]))
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]


def said(details: dict[str, Any]) -> str:
    """The text of a JavaScript exception."""
    return details.get("exception", {}).get("description") or details["text"]


async def photograph(chosen: argparse.Namespace) -> None:
    """Does what the command line says."""
    width, _, height = chosen.size.partition("x")
    canvas = await Canvas.open(chosen.url, int(width), int(height), chosen.dark, chosen.menus)
    try:
        await canvas.load(json.loads(chosen.workflow.read_text("utf-8")))
        if chosen.run:
            status = (await canvas.queue_and_wait())["status"]["status_str"]
            LOG.info("the workflow ended: %s", status)
        LOG.info("scale %.2f, red nodes: %s", await canvas.fit(), await canvas.error_nodes())
        await canvas.screenshot(chosen.picture)
    finally:
        await canvas.close()


def main() -> int:
    """Photographs one workflow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("url", metavar="SERVER_URL")
    parser.add_argument("workflow", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--run", action="store_true", help="run it first")
    parser.add_argument("--dark", action="store_true", help="the dark palette; otherwise the light one")
    parser.add_argument("--menus", action="store_true", help="keep the menus around the canvas")
    parser.add_argument("--size", default="1600x900")
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    asyncio.run(photograph(parser.parse_args()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
