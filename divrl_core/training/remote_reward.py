"""A reward that a server gives over HTTP; the protocol is in `reward_wire.py` and docs/rewards.md.

A request that fails (no connection, no answer in time, cut off, 5xx) is made again after growing pauses; when all fail,
its pictures have no reward, and the log says so each time. Once a request has failed so, the next ones get one try each
until the server answers again, or a dead server would hold a run for hours. An answer that is no answer (4xx, another
protocol, wrong lengths) is a mistake and ends the run at once.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import NamedTuple
from urllib.parse import urlsplit

import torch
from torch import Tensor

from ..config import RemoteRewardConfig
from ..rewards.gate import Reward
from ..rewards.score import Scores
from .references import PromptPair, Reference
from .reward_bodies import write_question
from .reward_wire import (
    IDENTITY_HEADER,
    JSON,
    MOST_ANSWER_BYTES,
    PATH,
    SAFETENSORS,
    UNKNOWN_REFERENCE,
    Greeting,
    Question,
    WireError,
    read_answer,
    read_json,
    reference_key,
    to_eight_bit,
)

logger = logging.getLogger("divrl")

LONGEST_PAUSE_S = 60.0
TRY_AGAIN = (408, 425, 429)  # the codes below 500 that say: later


class _Failed(Exception):
    """A request that may succeed another time."""


class _Response(NamedTuple):
    status: int
    content_type: str
    content: bytes


class RemoteReward:
    """The reward of a server that has been asked who it is."""

    needs_scores = False

    def __init__(self, config: RemoteRewardConfig, greeting: Greeting, *, first_pause_s: float = 1.0) -> None:
        """`first_pause_s`: before a failed request is made again; it doubles each time."""
        self.greeting, self.source = greeting, f"the reward server {config.url}"
        self.failed_requests = 0
        self._config, self._first_pause_s = config, first_pause_s
        self._sent: set[str] = set()  # keys of the references that the server was sent
        self._last_failure = ""
        self._is_down = False

    @classmethod
    def connect(
        cls, config: RemoteRewardConfig, *, takes_groups: bool, first_pause_s: float = 1.0
    ) -> RemoteReward:
        """Ask the server who it is. Raises ValueError when there is none, or it and the settings do not fit."""
        where = f"reward.remote.url: {config.url}"
        try:
            response = _exchange(config, "GET", b"", {"Accept": JSON})
            if response.status != 200:
                raise WireError(_refusal(response))
            greeting = Greeting.read(response.content)
        except (_Failed, WireError) as error:
            raise ValueError(
                f"{where} is no reward server that can be used: {error}; start one: divrl-train serve-reward"
            ) from error
        if config.body not in greeting.bodies:
            raise ValueError(
                f"{where} does not read reward.remote.body={config.body}; it reads {', '.join(greeting.bodies)}"
            )
        if greeting.takes == "group" and not takes_groups:
            raise ValueError(f"{where} judges whole groups: set reward.function_takes=group")
        return cls(config, greeting, first_pause_s=first_pause_s)

    @property
    def trouble(self) -> str:
        """How often the server failed, for those who wonder why rewards are undefined; empty if never."""
        if not self.failed_requests:
            return ""
        count = "a request" if self.failed_requests == 1 else f"{self.failed_requests} requests"
        return f"{self.source} failed {count} since the start (the last: {self._last_failure})"

    @torch.no_grad()
    def __call__(
        self, pictures: Tensor, reference: Reference, pair: PromptPair, scores: Scores
    ) -> Tensor | Reward:
        """What the server pays for pictures (B, 3, H, W); parts it does not tell, and all of a failed request, are NaN.

        Raises ValueError with the server and the group for an answer that is none.
        """
        try:
            response = self._ask(pictures, reference, pair)
            if response.status != 200:
                raise WireError(_refusal(response))
            reward = read_answer(response.content, response.content_type, len(pictures))
        except WireError as error:
            raise ValueError(f"{self.source}, group {pair.group_id}: {error}") from error
        except _Failed as error:
            self.failed_requests += 1
            self._last_failure, self._is_down = str(error), True
            logger.warning(
                "%s failed (%s): %d pictures of group %s have no reward; failed requests so far: %d",
                self.source, error, len(pictures), pair.group_id, self.failed_requests,
            )  # fmt: skip
            unknown = torch.full((len(pictures),), torch.nan)
            return Reward(unknown, unknown, unknown, unknown)
        if self._is_down:
            logger.info("%s answers again", self.source)
        self._is_down = False
        return reward

    def _ask(self, pictures: Tensor, reference: Reference, pair: PromptPair) -> _Response:
        """The server's response; the reference goes along when the server does not hold it."""
        key = reference_key(reference)
        eight_bit = to_eight_bit(pictures)
        with_reference = not self.greeting.keeps_references or key not in self._sent
        for _ in range(2):
            question = Question(
                pictures=eight_bit,
                reference_key=key,
                reference_id=pair.reference_id,
                group_id=pair.group_id,
                prompt=pair.prompt,
                reference=(to_eight_bit(reference.image), reference.mask.cpu()) if with_reference else None,
            )
            response = self._post(question)
            if response.status != UNKNOWN_REFERENCE or with_reference:
                break
            with_reference = True  # the server was started again, or has many to remember
        self._sent.add(key)
        return response

    def _post(self, question: Question) -> _Response:
        body, content_type = write_question(question, self._config.body)
        if len(body) > self.greeting.max_body_bytes:
            raise WireError(
                f"{len(question.pictures)} pictures are {len(body) / 2**20:.0f} MiB, it takes at most "
                f"{self.greeting.max_body_bytes / 2**20:.0f}; lower grpo.micro_batch, or grpo.group_size where it "
                "takes whole groups"
            )
        headers = {"Content-Type": content_type, "Accept": f"{JSON}, {SAFETENSORS}"}
        if self.greeting.identity:
            headers[IDENTITY_HEADER] = self.greeting.identity
        retries = 0 if self._is_down else self._config.retries
        for made in range(retries + 1):
            try:
                response = _exchange(self._config, "POST", body, headers)
                if response.status < 500 and response.status not in TRY_AGAIN:
                    return response
                raise _Failed(_refusal(response))
            except _Failed as error:
                if made == retries:
                    raise
                pause = min(self._first_pause_s * 2**made, LONGEST_PAUSE_S)
                logger.info("%s: %s; again in %g s (%d of %d)", self.source, error, pause, made + 1, retries)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")


def _exchange(config: RemoteRewardConfig, method: str, body: bytes, headers: dict[str, str]) -> _Response:
    """One request and its response, in config.timeout_s altogether, whatever the server does. Raises _Failed.

    A socket's own time-out starts anew with every byte, so a timer ends the connection.
    """
    url = urlsplit(config.url or "")
    kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=config.timeout_s)
    is_over = threading.Event()
    timer = threading.Timer(config.timeout_s, lambda: _end(is_over, sockets))
    timer.daemon = True
    sockets: list[socket.socket] = []
    timer.start()
    try:
        connection.connect()
        sockets.append(connection.sock)
        if is_over.is_set():
            raise TimeoutError
        with suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has read all
            connection.request(method, url.path.rstrip("/") + PATH, body or None, headers)
        response = connection.getresponse()
        content = response.read(MOST_ANSWER_BYTES + 1)
        is_whole = response.chunked or response.length == 0  # None: no length was told
    except (OSError, HTTPException) as error:
        is_late = is_over.is_set() or isinstance(error, TimeoutError)
        words = _no_answer(config) if is_late else f"no answer ({str(error) or type(error).__name__})"
        raise _Failed(words) from error
    finally:
        timer.cancel()
        connection.close()
    if is_over.is_set():
        raise _Failed(_no_answer(config))
    if len(content) > MOST_ANSWER_BYTES:
        raise WireError(f"its answer is longer than {MOST_ANSWER_BYTES} bytes")
    if not is_whole:
        raise _Failed("the answer was cut off, or has no Content-Length")
    return _Response(response.status, response.headers.get_content_type(), content)


def _end(is_over: threading.Event, sockets: list[socket.socket]) -> None:
    is_over.set()
    for each in sockets:
        with suppress(OSError):  # it may be closed already
            each.shutdown(socket.SHUT_RDWR)


def _no_answer(config: RemoteRewardConfig) -> str:
    return f"no whole answer within reward.remote.timeout_s={config.timeout_s:g}"


def _refusal(response: _Response) -> str:
    """What a server says beside another code than 200."""
    try:
        words = str(read_json(response.content).get("error", ""))
    except WireError:
        words = ""
    first = words.strip().partition("\n")[0][:300]
    first = "".join(
        letter if letter.isprintable() else "?" for letter in first
    )  # a stranger's, for a terminal
    return f"it answers {response.status}{': ' if first else ''}{first}"
