"""A reward server for those who have a second machine: it gives the local rewards over HTTP.

One picture after another is scored, however many ask; bodies are bounded, nothing is pickled, nothing is written. There
is no password and no encryption: it is for a network of one's own, or the end of an SSH tunnel.
"""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor

from ..config import RewardConfig
from ..rewards.gate import Reward
from ..settings import to_mapping
from .backbone_checks import check_backbone
from .own_reward import OwnReward
from .references import PromptPair, Reference
from .reward_bodies import read_question
from .reward_device import usable_device
from .reward_wire import (
    IDENTITY_HEADER,
    JSON,
    MOST_BODY_BYTES,
    PATH,
    SAFETENSORS,
    UNKNOWN_REFERENCE,
    Greeting,
    Question,
    WireError,
    answer,
    from_eight_bit,
    reference_key,
)
from .rewarding import Rewarder, open_rewarder

logger = logging.getLogger("divrl")

MOST_AT_ONCE = 16  # requests read or scored at a time; the others wait, so memory is bounded
MOST_HELD_BYTES = 2**30  # of reference pictures; the ones not asked for longest are forgotten
SILENCE_S = 60.0  # a client that sends nothing for so long is left


class Refused(Exception):
    """A request that is not answered with rewards: the HTTP code, and why in one line."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class HeldReferences:
    """Reference pictures as clients sent them. A client's key leads to the picture's own name, which is its digest.

    So a key that is used again for another picture, after the first was forgotten, does not find the first's features.
    """

    mask_source = "sent with the request"
    pairs: tuple[PromptPair, ...] = ()

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._held: OrderedDict[str, tuple[Tensor, Tensor]] = OrderedDict()

    def add(self, key: str, picture: Tensor, mask: Tensor) -> None:
        """Keep a picture (S, S, 3) and its mask. Raises Refused when the key is held for another one."""
        name = reference_key(Reference(from_eight_bit(picture), mask))
        if self.name_of(key) not in (None, name):
            raise Refused(409, f"another reference is held under the key {key}: keys must differ")
        self._names[key] = name
        self._held.setdefault(name, (picture.clone(), mask.clone()))
        self._held.move_to_end(name)
        while len(self._held) > 1 and self._bytes() > MOST_HELD_BYTES:
            self._held.popitem(last=False)
        self._names = {key: name for key, name in self._names.items() if name in self._held}

    def name_of(self, key: str) -> str | None:
        """The name of the picture held under a key; None where there is none."""
        name = self._names.get(key)
        if name is not None:
            self._held.move_to_end(name)
        return name

    def load(self, reference_id: str, size_px: int) -> Reference:
        """The reference of that name, in the size in which it came."""
        picture, mask = self._held[reference_id]
        return Reference(from_eight_bit(picture), mask)

    def _bytes(self) -> int:
        return sum(picture.nbytes + mask.nbytes for picture, mask in self._held.values())


class RewardServer(ThreadingHTTPServer):
    """Answers requests until it is shut down. One reward, one lock.

    `server_close` waits for its threads: one that the interpreter's end finds within torch would abort the process.
    """

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, rewarder: Rewarder, host: str, port: int) -> None:
        """Listens at once; port 0 = any that is free. Raises ValueError when it cannot."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.rewarder, self.greeting = rewarder, greeting_of(rewarder)
        self.references = HeldReferences()
        self.slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._scoring = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._is_ending = False
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ValueError(
                f"cannot listen at {host}:{port}: {why}; take another --host or --port"
            ) from error

    @property
    def url(self) -> str:
        """Where it listens, as reward.remote.url wants it."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, (bytes, bytearray)) else str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a new connection in a thread of its own."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Listen no more, answer what is being scored, refuse what waits, and end every connection."""
        self._is_ending = True
        for connection in tuple(self._connections):
            with suppress(OSError):  # it may be over already
                connection.shutdown(socket.SHUT_RD)  # nothing more is read; the answer still goes out
        super().server_close()

    def pay(self, question: Question) -> Reward:
        """The rewards of a question's pictures. Raises Refused where the reference is not known or cannot be used."""
        key = question.reference_key
        with self._scoring:
            if self._is_ending:
                raise Refused(503, "the server is being ended")
            if question.reference is not None:
                self.references.add(key, *question.reference)
            name = self.references.name_of(key)
            if name is None:
                raise Refused(UNKNOWN_REFERENCE, "send this reference's picture and mask along")
            pair = PromptPair(question.group_id, name, question.prompt)
            try:
                return self.rewarder.reward(from_eight_bit(question.pictures), self.references, pair)
            except ValueError as error:
                raise Refused(422, str(error).replace(name, question.reference_id)) from error


def greeting_of(rewarder: Rewarder) -> Greeting:
    """Who a server with this reward is; its identity changes with any setting of the reward."""
    config, judge = rewarder.config, rewarder.judge
    source = (
        rewarder.backbone.source if judge is None else f"{judge.source}; beside it {rewarder.backbone.source}"
    )
    settings = {key: value for key, value in to_mapping(config).items() if key not in ("device", "remote")}
    told = json.dumps([source, settings], sort_keys=True)
    return Greeting(
        name=config.kind,
        source=source,
        takes="group" if rewarder.takes_groups else "pictures",
        identity=hashlib.sha256(told.encode()).hexdigest()[:32],
    )


def serving_device(config: RewardConfig, asked: str | None) -> torch.device:
    """The device asked for, else the settings', else a GPU if there is one. Raises ValueError."""
    if asked is not None:
        return usable_device(asked, "--device")
    if config.device is not None:
        return usable_device(config.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def check_served(config: RewardConfig) -> None:
    """Raise ValueError for a reward that cannot be served."""
    if config.kind == "remote":
        raise ValueError("reward.kind=remote is itself a server's: name the reward that this one shall give")
    for backbone in (config.backbone, config.second_backbone, config.held_out_backbone):
        check_backbone(backbone)
    if config.function is not None:
        OwnReward.load(config.function)


def open_server(config: RewardConfig, *, host: str, port: int, device: torch.device) -> RewardServer:
    """A server for the reward of these settings, on this device. Raises ValueError, FileNotFoundError."""
    check_served(config)
    rewarder = open_rewarder(replace(config, device=None), size_px=0, model_device=device)
    return RewardServer(rewarder, host, port)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: RewardServer
    protocol_version = "HTTP/1.1"
    server_version = "divrl-reward"
    sys_version = ""
    timeout = SILENCE_S
    error_content_type = JSON
    error_message_format = '{"error": "%(message)s"}'

    def do_GET(self) -> None:
        """Who is there."""
        if self.path == PATH:
            self._send(200, self.server.greeting.as_json())
        else:
            self._refuse(
                Refused(404, f"there is {PATH} here: GET it to know the reward, POST pictures to it")
            )

    def do_POST(self) -> None:
        """Pictures in, rewards out."""
        try:
            with self.server.slots:
                reward = self.server.pay(self._question())
            self._send(200, answer(reward))
        except WireError as error:
            self._refuse(Refused(400, str(error)))
        except Refused as refused:
            self._refuse(refused)
        except torch.OutOfMemoryError:
            self._refuse(Refused(503, "the memory of the reward's device does not suffice at present"))
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client is gone
        except Exception as error:  # told to the client, or it would wait
            logger.exception("a request failed")
            self._refuse(Refused(500, f"{type(error).__name__}: {error}"))

    def _question(self) -> Question:
        # The body is read before anything but its size is judged: a client in the middle of sending hears no refusal.
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            raise Refused(411, "Content-Length is needed: the number of bytes")
        if int(length) > MOST_BODY_BYTES:
            raise Refused(413, f"a body has at most {MOST_BODY_BYTES} bytes, got {length}")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("cut off")
        self._is_read = True
        if self.path != PATH:
            raise Refused(404, f"POST to {PATH}")
        identity = self.headers.get(IDENTITY_HEADER, self.server.greeting.identity)
        if identity != self.server.greeting.identity:
            raise Refused(409, f"the reward here is another one now: {self.server.greeting.name}")
        content_type = self.headers.get_content_type()
        if content_type not in (JSON, SAFETENSORS):
            raise Refused(415, f"Content-Type must be {SAFETENSORS} or {JSON}, got {content_type}")
        return read_question(body, content_type)

    def setup(self) -> None:
        super().setup()
        self._is_read = False

    def _refuse(self, refused: Refused) -> None:
        logger.info("refused (%d): %s", refused.status, refused)
        if not self._is_read:
            self.close_connection = True  # what was not read would be taken for the next request
        self._send(refused.status, json.dumps({"error": str(refused).partition("\n")[0]}).encode())

    def _send(self, status: int, content: bytes) -> None:
        self._is_read = False
        try:
            self.send_response(status)
            self.send_header("Content-Type", JSON)
            self.send_header("Content-Length", str(len(content)))
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Each request, for those who look closely."""
        logger.debug(format, *args)
