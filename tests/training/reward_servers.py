"""Real local servers for tests: the honest one, and ones that say whatever a test wants, byte by byte."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import torch
from safetensors.torch import save
from torch import Tensor

from divrl_core.config import RewardConfig
from divrl_core.models.features.base import load_backbone
from divrl_core.training.own_reward import OwnReward
from divrl_core.training.reward_server import RewardServer, open_server
from divrl_core.training.reward_wire import to_eight_bit
from divrl_core.training.rewarding import Rewarder

from .tiny_run import ToyReferences

GREETING = {"protocol": 1, "name": "mine", "source": "a test"}
TOY = ToyReferences(("ant",)).load("ant", 64)
WORDS = {
    "protocol": "1",
    "reference_key": "k1",
    "reference_id": "ant",
    "group_id": "ant#0",
    "prompt": "a toy",
}


@contextmanager
def honest_server(config: RewardConfig, port: int = 0) -> Iterator[RewardServer]:
    """The server of `divrl-train serve-reward`, in a thread."""
    server = open_server(config, host="127.0.0.1", port=port, device=torch.device("cpu"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def response(content: Any, status: int = 200, content_type: str = "application/json") -> bytes:
    """A whole HTTP response; what is no bytes becomes JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class ScriptedServer:
    """Answers one connection after another with the next of its lines; the last is said for ever.

    A line is bytes, or a function of the connection that sends them itself.
    """

    def __init__(self, *lines: bytes | Callable[[socket.socket], None]) -> None:
        self.lines, self.requests = list(lines), list[bytes]()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                self.requests.append(read_request(connection))
                line = self.lines.pop(0) if len(self.lines) > 1 else self.lines[0]
                with suppress(OSError):
                    line(connection) if callable(line) else connection.sendall(line)


def read_request(connection: socket.socket) -> bytes:
    """Head and body of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = [line.partition(b":") for line in head.lower().split(b"\r\n")]
    length = next((int(value) for name, _, value in fields if name == b"content-length"), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def trickle(connection: socket.socket) -> None:
    """A byte now and then, for ever: no time-out of a socket notices."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(300):
        connection.sendall(b" ")
        time.sleep(0.05)


def trickle_head(connection: socket.socket) -> None:
    """The same, before the head is whole."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(300):
        connection.sendall(b"y")
        time.sleep(0.05)


def silence(connection: socket.socket) -> None:
    """No answer until the client leaves."""
    connection.settimeout(20)
    while connection.recv(1024):
        pass


def serve_function(function: Any) -> RewardServer:
    config = RewardConfig(kind="own", function="a:b")
    judge = OwnReward(function, "reward.function=a:b")
    rewarder = Rewarder(config, load_backbone(config.backbone), size_px=0, judge=judge)
    server = RewardServer(rewarder, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def ask(
    server: RewardServer | str, body: bytes = b"", method: str = "POST", path: str = "/reward", **headers: str
) -> tuple[int, dict[str, Any]]:
    """Status and JSON of one request to a server, or to host:port."""
    place = server if isinstance(server, str) else urlsplit(server.url).netloc
    connection = http.client.HTTPConnection(place, timeout=20)
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def tensors(**changes: Any) -> dict[str, Tensor]:
    whole = {
        "pictures": to_eight_bit(torch.stack([TOY.image, TOY.image.flip(1)])),
        "reference": to_eight_bit(TOY.image),
        "mask": TOY.mask.to(torch.uint8),
    }
    return {name: value for name, value in {**whole, **changes}.items() if value is not None}


def question(words: dict[str, str] | None = None, **changes: Any) -> bytes:
    return save(tensors(**changes), metadata={**WORDS, **(words or {})})
