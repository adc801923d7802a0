"""The reward server from a stranger's side: raw requests, as curl makes them, right and wrong."""

from __future__ import annotations

import base64
import http.client
import io
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from divrl_core.config import RemoteRewardConfig, RewardConfig
from divrl_core.rewards.gate import Reward
from divrl_core.training import reward_server
from divrl_core.training.references import Reference
from divrl_core.training.reward_server import RewardServer, check_served, open_server, serving_device
from divrl_core.training.reward_wire import JSON, MOST_BODY_BYTES, SAFETENSORS, to_eight_bit

from .reward_servers import TOY, WORDS, ask, honest_server, question, serve_function, tensors


@pytest.fixture(scope="module")
def server() -> Iterator[RewardServer]:
    with honest_server(RewardConfig(kind="nssm")) as server:
        yield server


def png(picture: Tensor) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture.numpy()).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def png_question(**changes: Any) -> bytes:
    said = {
        **WORDS,
        "protocol": 1,
        "reference_key": "png",
        "pictures": [png(picture) for picture in tensors()["pictures"]],
        "reference": png(to_eight_bit(TOY.image)),
        "mask": png(TOY.mask.to(torch.uint8) * 255),
    }
    return json.dumps(
        {name: value for name, value in {**said, **changes}.items() if value is not None}
    ).encode()


def test_who_it_is_is_told_with_the_version_of_the_protocol(server: RewardServer) -> None:
    status, told = ask(server, method="GET")
    assert status == 200 and told["protocol"] == 1 and told["name"] == "nssm"
    assert told["source"].startswith("EfficientNet-Lite0") and told["bodies"] == ["safetensors", "png"]


def test_both_bodies_are_answered_with_the_same_rewards_one_for_each_picture(server: RewardServer) -> None:
    first = ask(server, question(), Content_Type=SAFETENSORS)
    second = ask(server, png_question(), Content_Type=JSON)
    assert first == second and first[0] == 200
    answer = first[1]
    assert set(answer) == {"total", "nssm", "vsm", "gap"}
    assert answer["nssm"][0] == pytest.approx(0, abs=1e-5) and answer["nssm"][1] > 0.05
    assert answer["vsm"][0] == 1.0


def test_a_reference_that_is_not_held_is_asked_for_and_then_held(server: RewardServer) -> None:
    bare = question({"reference_key": "k2"}, reference=None, mask=None)
    assert ask(server, bare, Content_Type=SAFETENSORS) == (
        428,
        {"error": "send this reference's picture and mask along"},
    )
    whole = ask(server, question({"reference_key": "k2"}), Content_Type=SAFETENSORS)
    assert whole[0] == 200
    assert ask(server, bare, Content_Type=SAFETENSORS) == whole


def test_requests_go_over_one_connection_and_a_refused_one_does_not_close_it(server: RewardServer) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=20)
    statuses, closed = [], []
    for content_type in (SAFETENSORS, "text/plain", SAFETENSORS):
        connection.request("POST", "/reward", question(), {"Content-Type": content_type})
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        closed.append(response.getheader("Connection"))
    assert (statuses, closed) == ([200, 415, 200], [None, None, None])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pickle.dumps({"pictures": [1]}), "the body is not safetensors"),
        (b"", "the body is not safetensors"),
        (b"\xff" * 8 + b"{}", "the body is not safetensors"),
        (question()[:-100], "the body is not safetensors ("),
        (question({"protocol": "2"}), "the question is of version '2' of the protocol, this is 1"),
        (save(tensors()), "of version None"),
        (question({"prompt": "x" * 20_000}), "prompt must be a text of at most 16384 characters"),
        (question(pictures=None), "pictures are missing; there is mask, reference"),
        (
            question(pictures=torch.zeros(2, 3, 8, 8)),
            "pictures must be uint8 (B, H, W, 3), got torch.float32",
        ),
        (question(pictures=torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), "got torch.uint8 (2, 3, 8, 8)"),
        (question(pictures=torch.zeros(0, 8, 8, 3, dtype=torch.uint8)), "pictures must be 1 to 1024, got 0"),
        (question(pictures=torch.zeros(1, 1, 9000, 3, dtype=torch.uint8)), "sides must be 1 to 8192 px"),
        (question(mask=None), "reference and mask belong together"),
        (
            question(mask=torch.zeros(8, 8, dtype=torch.uint8)),
            "mask must be uint8 (64, 64), got torch.uint8 (8, 8)",
        ),
    ],
)
def test_a_body_that_is_no_question_is_refused_in_one_line(
    server: RewardServer, body: bytes, words: str
) -> None:
    status, told = ask(server, body, Content_Type=SAFETENSORS)
    assert status == 400 and words in told["error"] and "\n" not in told["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "it must say JSON"),
        (png_question(pictures=[]), "pictures must be a list of 1 to 1024 PNG files in base64"),
        (png_question(pictures=["!"]), "picture 0 must be a PNG file in base64 (Error)"),
        (png_question(pictures=[7]), "picture 0 must be a PNG file in base64"),
        (
            png_question(pictures=[base64.b64encode(b"GIF89a" + b"\0" * 50).decode()]),
            "(UnidentifiedImageError)",
        ),
        (
            png_question(pictures=[png(torch.zeros(8, 8, 3, dtype=torch.uint8))[:60]]),
            "picture 0 must be a PNG",
        ),
        (
            png_question(pictures=[png(torch.zeros(s, 8, 3, dtype=torch.uint8)) for s in (8, 9)]),
            "of one size, got 2",
        ),
        (
            png_question(pictures=[png(torch.zeros(1, 9000, 3, dtype=torch.uint8))]),
            "sides must be 1 to 8192 px",
        ),
        (png_question(prompt=7), "prompt must be a text"),
    ],
)
def test_png_files_that_are_none_are_refused_in_one_line(
    server: RewardServer, body: bytes, words: str
) -> None:
    status, told = ask(server, body, Content_Type=JSON)
    assert status == 400 and words in told["error"]


def test_other_mistakes_have_codes_of_their_own(server: RewardServer) -> None:
    speck = torch.zeros(64, 64, dtype=torch.uint8)
    speck[:3, :3] = 1
    assert ask(server, method="GET", path="/")[0] == 404
    assert ask(server, question(), path="/score", Content_Type=SAFETENSORS)[0] == 404
    assert ask(server, question(), Content_Type="application/octet-stream")[0] == 415
    assert ask(server, question(), Content_Type=SAFETENSORS, DivRL_Reward="another")[0] == 409
    assert ask(server, method="DELETE")[0] == 501
    status, told = ask(server, question({"reference_key": "k3"}, mask=speck), Content_Type=SAFETENSORS)
    assert status == 422 and told["error"].startswith("ant: the mask covers")
    ask(server, question({"reference_key": "k4"}), Content_Type=SAFETENSORS)
    other = question({"reference_key": "k4"}, reference=to_eight_bit(TOY.image.flip(2)))
    assert ask(server, other, Content_Type=SAFETENSORS)[0] == 409


@pytest.mark.parametrize(
    ("length", "status"), [(str(MOST_BODY_BYTES + 1), 413), ("-1", 411), ("many", 411), (None, 411)]
)
def test_a_body_is_bounded_before_it_is_read(server: RewardServer, length: str | None, status: int) -> None:
    head = f"POST /reward HTTP/1.1\r\nHost: x\r\nContent-Type: {SAFETENSORS}\r\n"
    head += "" if length is None else f"Content-Length: {length}\r\n"
    with socket.create_connection(server.server_address[:2], timeout=20) as connection:
        connection.sendall(head.encode() + b"\r\n")
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"Connection: close" in answer


def test_a_client_that_is_cut_off_or_falls_silent_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_server._Handler, "timeout", 0.3)
    head = (
        f"POST /reward HTTP/1.1\r\nHost: x\r\nContent-Type: {SAFETENSORS}\r\nContent-Length: 1000\r\n\r\nabc"
    )
    with honest_server(RewardConfig(kind="brightness")) as server:
        for _ in range(reward_server.MOST_AT_ONCE + 1):
            with socket.create_connection(server.server_address[:2], timeout=20) as gone:
                gone.sendall(head.encode())
        with socket.create_connection(server.server_address[:2], timeout=20) as silent:
            silent.sendall(head.encode())
            assert silent.recv(1000) == b"", "the server leaves"
        assert ask(server, question(), Content_Type=SAFETENSORS)[0] == 200


def test_many_clients_at_once_get_the_answers_of_one_after_another(server: RewardServer) -> None:
    bodies = [
        question({"reference_key": "k5"}, pictures=torch.full((2, 64, 64, 3), 10 * n, dtype=torch.uint8))
        for n in range(8)
    ]
    alone = [ask(server, body, Content_Type=SAFETENSORS) for body in bodies]
    together: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda n=n: together.update({n: ask(server, bodies[n], Content_Type=SAFETENSORS)})
        )
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [together[n] for n in range(8)] == alone


def test_own_rewards_are_served_undefined_as_null_and_their_mistakes_as_422() -> None:
    def own(pictures: Tensor, reference: Reference, prompt: str) -> Tensor | Reward:
        if prompt == "fail":
            raise KeyError("x")
        if prompt == "memory":
            raise torch.OutOfMemoryError("x")
        return torch.tensor([0.5, torch.nan])

    with serve_function(own) as server:
        assert server.greeting.source.startswith("reward.function=a:b; beside it EfficientNet-Lite0")
        assert ask(server, question(), Content_Type=SAFETENSORS)[1]["total"] == [0.5, None]
        status, told = ask(server, question({"prompt": "fail"}), Content_Type=SAFETENSORS)
        assert status == 422
        assert told["error"].startswith(
            "reward.function=a:b, group ant#0: KeyError: 'x' (test_reward_server.py"
        )
        assert ask(server, question({"prompt": "memory"}), Content_Type=SAFETENSORS)[0] == 503
        server.shutdown()


def test_references_that_are_not_asked_for_are_forgotten_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reward_server, "MOST_HELD_BYTES", 2 * 64 * 64 * 4)
    held = reward_server.HeldReferences()
    picture, mask = to_eight_bit(TOY.image), TOY.mask
    held.add("a", picture, mask)
    held.add("b", picture.flip(0), mask)
    assert held.name_of("a") not in (None, held.name_of("b"))
    held.name_of("a")
    held.add("c", picture.flip(1), mask)
    assert [held.name_of(key) is None for key in "abc"] == [False, True, False]


def test_a_key_used_again_for_another_picture_after_the_first_was_forgotten_is_scored_by_the_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reward_server, "MOST_HELD_BYTES", 1)
    flipped = to_eight_bit(TOY.image.flip(1))
    with honest_server(RewardConfig(kind="nssm")) as server:
        old = ask(server, question(), Content_Type=SAFETENSORS)[1]["nssm"]
        ask(server, question({"reference_key": "another"}, reference=flipped), Content_Type=SAFETENSORS)
        new = ask(server, question(reference=flipped), Content_Type=SAFETENSORS)[1]["nssm"]
    assert old[0] < 1e-4 < 0.05 < old[1] and new[1] < 1e-4 < 0.05 < new[0]


def test_a_server_that_cannot_be_is_one_line(server: RewardServer) -> None:
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match=r"reward.kind=remote is itself a server's"):
        check_served(RewardConfig(kind="remote", remote=RemoteRewardConfig(url="http://127.0.0.1:1")))
    with pytest.raises(
        ValueError, match=r"cannot listen at 127.0.0.1:.*: Address already in use; take another"
    ):
        open_server(RewardConfig(kind="brightness"), host="127.0.0.1", port=server.server_port, device=cpu)
    with pytest.raises(ValueError, match=r"cannot listen at no.such.host.invalid:0"):
        open_server(RewardConfig(kind="brightness"), host="no.such.host.invalid", port=0, device=cpu)
    with pytest.raises(ValueError, match=r"^--device=cuda:99 cannot be used here"):
        serving_device(RewardConfig(), "cuda:99")
    assert serving_device(RewardConfig(device="cpu"), None) == cpu
