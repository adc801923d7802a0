"""A reward over HTTP: the same as a local one of 8-bit pictures, and whatever a server does, never a hang."""

from __future__ import annotations

import json
import logging
import socket
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from divrl_core.config import RemoteRewardConfig, RewardConfig
from divrl_core.models.features.base import load_backbone
from divrl_core.rewards.gate import Reward
from divrl_core.training.remote_reward import RemoteReward
from divrl_core.training.reward_checks import reward_problems
from divrl_core.training.reward_wire import SAFETENSORS, from_eight_bit, to_eight_bit
from divrl_core.training.rewarding import Rewarder, open_rewarder

from .reward_servers import GREETING, ScriptedServer, honest_server, response, silence, trickle, trickle_head
from .tiny_run import ToyReferences

SIZE_PX = 64
REFERENCES = ToyReferences(("ant", "bee"))
ANT, _, BEE, _ = REFERENCES.pairs
TWO = {"total": [0.25, 0.5]}
FINE = response(TWO)


def pictures() -> Tensor:
    ant, bee = (REFERENCES.load(name, SIZE_PX).image for name in ("ant", "bee"))
    return torch.stack([ant.flip(1), (ant + bee) / 2])


def remote_config(url: str, **changes: Any) -> RewardConfig:
    remote = {"timeout_s": 20.0, "retries": 0, **changes}
    return RewardConfig(kind="remote", remote=RemoteRewardConfig(url=url, **remote))


def rewarder_at(url: str, **changes: Any) -> Rewarder:
    """The rewarder of a run whose reward is at `url`, with short pauses."""
    config = remote_config(url, **changes)
    judge = RemoteReward.connect(config.remote, takes_groups=False, first_pause_s=0.01)
    return Rewarder(config, load_backbone(config.backbone), size_px=SIZE_PX, judge=judge, is_apart=True)


def rewarder_hearing(*lines: Any, **changes: Any) -> tuple[Rewarder, ScriptedServer]:
    server = ScriptedServer(response(GREETING), *lines)
    return rewarder_at(server.url, **changes), server


def problem(rewarder: Rewarder) -> str:
    with pytest.raises(ValueError) as caught:
        rewarder.reward(pictures(), REFERENCES, ANT)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class EightBit(ToyReferences):
    """The toys as they arrive at a server."""

    def load(self, reference_id: str, size_px: int) -> Any:
        toy = super().load(reference_id, size_px)
        return replace(toy, image=from_eight_bit(to_eight_bit(toy.image)))


def same(one: Reward, other: Reward) -> None:
    for part in ("total", "nssm", "vsm", "gap"):
        left, right = getattr(one, part), getattr(other, part)
        assert torch.equal(left.nan_to_num(-9), right.nan_to_num(-9)), part


@pytest.mark.parametrize("body", ["safetensors", "png"])
def test_a_served_reward_is_the_local_one_of_the_same_pictures_in_eight_bits(body: str) -> None:
    served = RewardConfig(kind="gated", gate=0.9)
    local = open_rewarder(served, size_px=SIZE_PX, model_device=torch.device("cpu"))
    with honest_server(served) as server:
        ours = rewarder_at(server.url, body=body)
        for pair in (ANT, BEE, ANT):
            eight_bit = from_eight_bit(to_eight_bit(pictures()))
            expected = local.reward(eight_bit, EightBit(REFERENCES.names), pair)
            assert (expected.gap > 0).any() and expected.total.isfinite().all()
            same(ours.reward(pictures(), REFERENCES, pair), expected)


def test_a_reference_is_sent_once_and_again_to_a_server_that_was_started_anew() -> None:
    served = RewardConfig(kind="nssm")
    with honest_server(served) as server:
        port = server.server_address[1]
        ours = rewarder_at(server.url)
        first = ours.reward(pictures(), REFERENCES, ANT)
        assert len(server.references._held) == 1
    with honest_server(served, port=int(port)) as server:
        assert not server.references._held
        same(ours.reward(pictures(), REFERENCES, ANT), first)
        assert len(server.references._held) == 1


def test_the_reference_goes_along_the_first_time_only_or_always_where_the_server_keeps_none() -> None:
    for keeps, expected in ((True, [True, False]), (False, [True, True])):
        greeting = response({**GREETING, "keeps_references": keeps})
        with ScriptedServer(greeting, FINE) as server:
            ours = rewarder_at(server.url)
            for _ in range(2):
                ours.reward(pictures(), REFERENCES, ANT)
            assert [b'"reference"' in body for body in server.requests[1:]] == expected


def test_a_server_started_anew_with_another_reward_ends_the_run_and_is_named() -> None:
    with honest_server(RewardConfig(kind="nssm")) as server:
        url, port = server.url, int(server.server_address[1])
        ours = rewarder_at(url)
    with honest_server(RewardConfig(kind="vsm"), port=port):
        line = problem(ours)
    assert (
        line
        == f"the reward server {url}, group ant#0: it answers 409: the reward here is another one now: vsm"
    )


@pytest.mark.parametrize(
    "answer",
    [
        response({"total": [0.25, None], "vsm": [0.5, 1], "nssm": None}),
        response(b'{"total": [0.25, NaN], "vsm": [0.5, 1.0]}'),
        response(
            save({"total": torch.tensor([0.25, torch.nan]), "vsm": torch.tensor([0.5, 1.0])}),
            content_type=SAFETENSORS,
        ),
    ],
    ids=["null", "NaN", "safetensors"],
)
def test_undefined_rewards_stay_undefined_and_parts_that_are_not_told_are_unknown(answer: bytes) -> None:
    ours, server = rewarder_hearing(answer)
    with server:
        reward = ours.reward(pictures(), REFERENCES, ANT)
    assert reward.total[0] == 0.25 and reward.total.isnan().tolist() == [False, True]
    assert reward.vsm.tolist() == [0.5, 1.0] and reward.nssm.isnan().all() and reward.gap.isnan().all()
    assert ours.trouble == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (response({"total": [0.5]}), "total must hold 2 numbers, got (1,)"),
        (response({"total": [0.5, 0.5], "vsm": [0.5] * 3}), "vsm must hold 2 numbers, got (3,)"),
        (response({"total": [[0.5, 0.5]]}), "must be a list of numbers and null"),
        (response({"total": [True, 0.5]}), "must be a list of numbers and null"),
        (response(b'{"total": [Infinity, 0.5]}'), "total is infinite; an undefined reward is null"),
        (response(b'{"total": [1e999, 0.5]}'), "total is infinite"),
        (response(b'{"total": [1' + b"0" * 400 + b", 0.5]}"), "total is infinite"),
        (response({"reward": [0.5, 0.5]}), "must hold total, a list of 2 numbers, got reward"),
        (response([0.5, 0.5]), "must say a JSON object, got list"),
        (response(b"<html>hello</html>"), "must say JSON, got b'<html>hello"),
        (response(b"[" * 100_000), "must say JSON"),
        (response(b"\x80\x04pickle", content_type=SAFETENSORS), "the body is not safetensors"),
        (response(b"x" * (2**20 + 1)), "longer than 1048576 bytes"),
        (response({"error": "no such thing\nreally"}, 404), "it answers 404: no such thing"),
        (response(b"", 302), "it answers 302"),
        (response({"error": "send it"}, 428), "it answers 428: send it"),
    ],
)
def test_an_answer_that_is_none_ends_the_run_at_once_with_server_and_group(answer: bytes, words: str) -> None:
    ours, server = rewarder_hearing(answer, retries=5)
    with server:
        line = problem(ours)
        assert line.startswith(f"the reward server {server.url}, group ant#0: ") and words in line
        assert len(server.requests) == 2, "it is a mistake, which is not tried again"
    assert ours.trouble == ""


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (silence, "no whole answer within reward.remote.timeout_s=0.5"),
        (trickle, "no whole answer within reward.remote.timeout_s=0.5"),
        (trickle_head, "no whole answer within reward.remote.timeout_s=0.5"),
        (b"", "no answer"),
        (FINE[:-5], "the answer was cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the answer was cut off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer (SSH-2.0-OpenSSH_9.6"),
        (response({"error": "overloaded"}, 503), "it answers 503: overloaded"),
        (response(b"", 429), "it answers 429"),
    ],
    ids=["silent", "slow", "slow head", "closed", "cut off", "cut off head", "no HTTP", "503", "429"],
)
def test_a_failed_request_leaves_its_pictures_without_a_reward_and_is_said_aloud(
    fault: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    ours, server = rewarder_hearing(fault, timeout_s=0.5)
    started = time.perf_counter()
    with server, caplog.at_level(logging.WARNING, "divrl"):
        for count in (1, 2):
            reward = ours.reward(pictures(), REFERENCES, ANT)
            assert all(getattr(reward, part).isnan().all() for part in ("total", "nssm", "vsm", "gap"))
            assert f"2 pictures of group ant#0 have no reward; failed requests so far: {count}" in caplog.text
    assert words in caplog.text and server.url in caplog.text
    assert ours.trouble.startswith(
        f"the reward server {server.url} failed 2 requests since the start (the last: "
    )
    assert time.perf_counter() - started < 15


def test_a_failed_request_is_made_again_after_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    later = response({}, 503)
    ours, server = rewarder_hearing(later, b"", later, FINE, retries=3)
    with server, caplog.at_level(logging.INFO, "divrl"):
        assert ours.reward(pictures(), REFERENCES, ANT).total.tolist() == [0.25, 0.5]
    assert len(server.requests) == 5 and ours.trouble == ""
    pauses = [record.getMessage().partition("again in ")[2] for record in caplog.records]
    assert [words for words in pauses if words] == ["0.01 s (1 of 3)", "0.02 s (2 of 3)", "0.04 s (3 of 3)"]


def test_a_server_that_stays_down_is_tried_once_a_request_until_it_answers_again() -> None:
    later = response({}, 503)
    ours, server = rewarder_hearing(*[later] * 3, later, FINE, later, FINE, retries=2)
    with server:
        totals = [ours.reward(pictures(), REFERENCES, ANT).total for _ in range(4)]
    assert [total.isnan().all().item() for total in totals] == [True, True, False, False]
    assert len(server.requests) == 1 + 3 + 1 + 1 + 2, "all tries, one, one that succeeds, then tries again"


@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (response({**GREETING, "protocol": 2}), "it speaks version 2 of the protocol, this is 1"),
        (response({"name": "x"}), "it speaks version None of the protocol"),
        (response({"protocol": 1, "source": "x"}), "greeting must hold name, a str"),
        (response({**GREETING, "bodies": "png"}), "greeting must hold bodies, a list"),
        (response({**GREETING, "takes": "all"}), "takes must be pictures or group, got 'all'"),
        (response({**GREETING, "max_body_bytes": "1 GB"}), "max_body_bytes must be a number"),
        (
            response({**GREETING, "bodies": ["png"]}),
            "does not read reward.remote.body=safetensors; it reads png",
        ),
        (response({**GREETING, "takes": "group"}), "judges whole groups: set reward.function_takes=group"),
        (response(b"hello"), "must say JSON, got b'hello'"),
        (response({"error": "who are you?"}, 403), "it answers 403: who are you?"),
        (silence, "no whole answer within reward.remote.timeout_s=0.5"),
        (b"", "no answer"),
    ],
)
def test_a_server_that_does_not_fit_is_one_line_at_the_start(greeting: Any, words: str) -> None:
    with ScriptedServer(greeting) as server:
        (line,) = reward_problems(remote_config(server.url, timeout_s=0.5))
        assert line.startswith(f"reward.remote.url: {server.url} ") and words in line and "\n" not in line


def test_a_refusal_is_heard_also_where_the_pictures_are_many_megabytes() -> None:
    with honest_server(RewardConfig(kind="brightness")) as server:
        ours = rewarder_at(server.url)
        ours.judge.greeting = replace(ours.judge.greeting, identity="another")  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="it answers 409"):
            ours.reward(torch.zeros(8, 3, 1024, 1024), REFERENCES, ANT)


@pytest.mark.parametrize(
    "url", ["http://me:secret@host:1", "http://host:99999", "http://host:x", "host:1", "http://"]
)
def test_an_address_that_is_none_or_holds_a_password_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"reward\.remote\.url must be http://HOST:PORT"):
        remote_config(url)


def test_what_a_server_says_reaches_the_terminal_without_control_characters() -> None:
    with ScriptedServer(response({**GREETING, "source": "\x1b[2J"})) as server:
        (line,) = reward_problems(remote_config(server.url))
        assert line.isprintable()
    ours, server = rewarder_hearing(response({"error": "\x1b[2Jgone"}, 400))
    with server:
        assert problem(ours).endswith("it answers 400: ?[2Jgone")


def test_no_server_at_all_is_one_line_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    (line,) = reward_problems(remote_config(url))
    assert line.startswith(f"reward.remote.url: {url} is no reward server that can be used: no answer (")
    assert "Connection refused" in line and line.endswith("start one: divrl-train serve-reward")


def test_more_than_the_server_takes_is_not_sent() -> None:
    with ScriptedServer(response({**GREETING, "max_body_bytes": 1000}), FINE) as server:
        line = problem(rewarder_at(server.url))
        assert "2 pictures are 0 MiB, it takes at most 0; lower grpo.micro_batch" in line
        assert len(server.requests) == 1


def test_a_path_before_the_servers_own_is_kept() -> None:
    with ScriptedServer(response(GREETING), FINE) as server:
        ours = rewarder_at(server.url + "/behind/a/proxy/")
        ours.reward(pictures(), REFERENCES, ANT)
        assert [body.split()[1] for body in server.requests] == [b"/behind/a/proxy/reward"] * 2


def test_a_groupwise_server_is_given_groups_by_settings_that_say_so() -> None:
    with ScriptedServer(response({**GREETING, "takes": "group"}), FINE) as server:
        config = replace(remote_config(server.url), function_takes="group")
        ours = open_rewarder(config, size_px=SIZE_PX, model_device=torch.device("cpu"))
        assert ours.takes_groups and ours.is_apart


def test_what_is_sent_names_the_prompt_and_holds_no_pickle() -> None:
    ours, server = rewarder_hearing(FINE)
    with server:
        ours.reward(pictures(), REFERENCES, ANT)
    head, _, body = server.requests[1].partition(b"\r\n\r\n")
    assert b"Content-Type: application/x-safetensors" in head
    header = json.loads(body[8 : 8 + int.from_bytes(body[:8], "little")])
    assert header["__metadata__"]["prompt"] == ANT.prompt
    assert {
        name: (header[name]["dtype"], header[name]["shape"]) for name in ("pictures", "reference", "mask")
    } == {
        "pictures": ("U8", [2, 64, 64, 3]),
        "reference": ("U8", [64, 64, 3]),
        "mask": ("U8", [64, 64]),
    }
