"""How a reward server ends: what is under way is answered, what waits is refused, and no thread is left behind."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from torch import Tensor

from divrl_core.training.references import Reference
from divrl_core.training.reward_wire import SAFETENSORS

from .reward_servers import ask, question, serve_function

ROOT = Path(__file__).parents[2]
SLOW = """
import time
import torch
from pathlib import Path

def slow(pictures, reference, prompt):
    Path(prompt).write_text("begun")
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:  # the work of a reward: tensors are made and dropped
        pictures.mean((1, 2, 3))
    return pictures.mean((1, 2, 3))
"""


def test_the_end_answers_what_is_scored_refuses_what_waits_and_leaves_no_thread() -> None:
    is_begun, may_end = threading.Event(), threading.Event()

    def own(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        is_begun.set()
        assert may_end.wait(30)
        return torch.tensor([0.25, 0.5])

    before = set(threading.enumerate())
    server = serve_function(own)
    answers: dict[str, tuple[int, dict[str, Any]]] = {}

    def send(name: str) -> threading.Thread:
        body = question({"reference_key": name})
        thread = threading.Thread(
            target=lambda: answers.update({name: ask(server, body, Content_Type=SAFETENSORS)})
        )
        thread.start()
        return thread

    with socket.create_connection(
        server.server_address[:2], timeout=30
    ) as idle:  # a client that keeps its connection
        clients = [send("first")]
        assert is_begun.wait(30)
        clients.append(send("second"))
        while sum("process_request_thread" in thread.name for thread in threading.enumerate()) < 3:
            time.sleep(0.01)
        server.shutdown()
        closing = threading.Thread(target=server.server_close)
        closing.start()
        assert idle.recv(100) == b"", "an idle connection is ended at once"
        closing.join(0.2)
        assert closing.is_alive(), "it waits for what is being scored"
        may_end.set()
        for thread in (*clients, closing):
            thread.join(30)
    assert answers["first"][0] == 200 and answers["first"][1]["total"] == [0.25, 0.5]
    # The second has been read and waits, or was cut off while its body came: then there is no answer.
    assert answers.get("second", (503, {}))[0] == 503
    assert [thread for thread in threading.enumerate() if thread not in before and thread.is_alive()] == []


@contextmanager
def scoring_process(folder: Path, seconds: float) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """serve-reward as a process in the middle of scoring, and the statuses that its client gets."""
    (folder / "slow_reward.py").write_text(SLOW.replace("SECONDS", str(seconds)))
    words = ["--port", "0", "--set", "reward.kind=own", "--set", "reward.function=slow_reward:slow"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", "from train_cli.main import cli; cli()", "serve-reward", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            place = urlsplit(process.stdout.readline().split()[2].rstrip(";")).netloc
            statuses: list[int] = []

            def send() -> None:
                with suppress(ConnectionError, http.client.HTTPException):
                    body = question({"prompt": str(folder / "begun")})
                    statuses.append(ask(place, body, Content_Type=SAFETENSORS)[0])

            client = threading.Thread(target=send)
            client.start()
            while not (folder / "begun").exists():
                assert process.poll() is None
                time.sleep(0.01)
            yield process, statuses
            client.join(30)
        finally:
            process.kill()


def test_ctrl_c_while_a_picture_is_scored_answers_it_and_ends_without_an_abort(tmp_path: Path) -> None:
    with scoring_process(tmp_path, 1.5) as (process, statuses):
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and error.strip().endswith("ended"), (out, error)
    assert statuses == [200]


def test_a_second_ctrl_c_ends_at_once_with_one_line(tmp_path: Path) -> None:
    with scoring_process(tmp_path, 3600) as (process, statuses):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 130, (out, error)
    assert error.strip() == "ended; what was being scored is not answered"
    assert statuses == []
