"""The page's server: what it keeps, what it refuses, what it tells before the end; and the page in a real browser."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from divrl_core.evaluation.blind.answers import answers_file, read_judgement
from divrl_core.evaluation.blind.server import BlindServer, open_blind
from divrl_core.evaluation.blind.session import NotNow, Session
from divrl_core.evaluation.contest.evaluated import Evaluation

from .. import chromium
from ..made_evaluation import make_evaluation


@pytest.fixture
def made(tmp_path) -> Evaluation:
    return make_evaluation(
        tmp_path, models=("base", "better"), references=3, prompts=2, pictures_each=1, size_px=24
    )


@contextmanager
def served(evaluation: Evaluation, **more) -> Iterator[BlindServer]:
    with open_blind(evaluation, **more) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: BlindServer, path: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address, timeout=10)
    content = None if body is None else json.dumps(body)
    sent = {"Content-Type": "application/json", **headers} if body is not None else headers
    connection.request("GET" if body is None else "POST", path, content, sent)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


def state(server: BlindServer) -> dict:
    return json.loads(ask(server, "/state")[1])


def test_an_answer_is_on_the_disk_before_the_next_pair_is_shown(made) -> None:
    with served(made) as server:
        assert state(server)["done"] == 0 and state(server)["total"] == 6
        status, content = ask(server, "/answers", {"pair": 0, "answer": "left", "seconds": 2.5})
        assert status == 200 and json.loads(content)["pair"]["number"] == 1
        (kept,) = read_judgement(answers_file(made.folder, "judge")).answers
        assert (kept.answer, kept.seconds) == ("left", 2.5)


def test_a_session_goes_on_where_it_was_left(made) -> None:
    first = Session(made)
    for number in range(3):
        first.answer(number, "tie", 1)
    first.undo()
    again = Session(made)
    assert again.state()["pair"]["number"] == 2 and again.state()["done"] == 2
    # Another judge begins at the beginning; another seed shows what is left in another order.
    assert Session(made, judge="bob").state()["done"] == 0
    other = Session(made, seed=7)
    assert other.state()["done"] == 2 and len(other.answers) == 2


def test_nothing_that_is_told_before_the_end_names_a_model(tmp_path) -> None:
    made = make_evaluation(tmp_path, models=("zebra-one", "zebra-two"), references=2, size_px=24)
    with served(made) as server:
        told = [ask(server, "/")[1], ask(server, "/state")[1]]
        token = state(server)["token"]
        told += [ask(server, f"/pictures/{token}/0/{side}")[1] for side in ("left", "right", "reference")]
        told.append(ask(server, "/answers", {"pair": 0, "answer": "bad", "seconds": 1})[1])
        told.append(ask(server, "/undo", {})[1])
        assert not any(b"zebra" in one for one in told)
        ended = json.loads(ask(server, "/end", {})[1])
        assert ended["ended"] and ended["result"] is None  # nothing holds after the undo


def test_pictures_come_as_bare_pixels_and_only_when_they_are_shown(made) -> None:
    session = Session(made)
    pair = session._pairs[0]
    file = made.picture(pair.left, pair.place)
    words = PngInfo()
    words.add_text("model", pair.left)
    with Image.open(file) as picture:
        picture.load()
        picture.save(file, pnginfo=words)
        wanted = picture.convert("RGB").tobytes()
    found = Image.open(io.BytesIO(session.picture(0, "left")))
    assert found.convert("RGB").tobytes() == wanted and found.info == {}
    with pytest.raises(NotNow):
        session.picture(5, "left")
    with pytest.raises(NotNow):
        session.picture(0, "middle")


def test_the_end_is_final_and_names_the_models(made) -> None:
    with served(made) as server:
        for number in range(6):
            ask(server, "/answers", {"pair": number, "answer": "left", "seconds": 1})
        over = state(server)
        assert over["pair"] is None and not over["ended"] and over["result"] is None
        found = json.loads(ask(server, "/end", {})[1])
        (preference,) = found["result"]["preferences"]
        assert (preference["first"], preference["second"]) == ("better", "base")
        assert sum(preference["counts"]) == 6 and found["result"]["metrics"]
        assert ask(server, "/undo", {})[0] == 409
    assert Session(made).state()["ended"]


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("/answers", {"pair": 3, "answer": "left", "seconds": 1}, {}, 409, "not the one"),
        ("/answers", {"pair": 0, "answer": "up", "seconds": 1}, {}, 400, "one of left, right, tie, bad"),
        ("/answers", {"pair": "0", "answer": "left"}, {}, 400, "an answer needs pair"),
        ("/answers", {"pair": True, "answer": "left"}, {}, 400, "an answer needs pair"),
        ("/answers", [1], {}, 400, "JSON object"),
        ("/answers", {"pair": 0, "answer": "left"}, {"Content-Type": "text/plain"}, 415, "Content-Type"),
        ("/answers", {"pair": 0, "answer": "x" * 5000}, {}, 413, "at most 4096"),
        ("/answers", {"pair": 0, "answer": "left"}, {"Origin": "http://evil.example"}, 403, "another page"),
        ("/answers", {"pair": 0, "answer": "left"}, {"Host": "evil.example"}, 403, "on this computer"),
        ("/undo", {}, {}, 409, "no answer to take back"),
        ("/other", {}, {}, 404, "POST to"),
        ("/pictures/000000000000/0/left", None, {}, 404, "there is /"),
        ("/evaluation.json", None, {}, 404, "there is /"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_and_keeps_nothing(
    made, path, body, headers, status, words
) -> None:
    with served(made) as server:
        found, content = ask(server, path, body, **headers)
        message = json.loads(content)["error"]
        assert found == status and words in message and "\n" not in message
        assert state(server)["done"] == 0
    assert not answers_file(made.folder, "judge").exists()


def test_an_answer_that_cannot_be_kept_does_not_count(made, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with served(made) as server:
        monkeypatch.setattr("divrl_core.evaluation.blind.session.append_line", full)
        status, content = ask(server, "/answers", {"pair": 0, "answer": "left", "seconds": 1})
        assert status == 500 and b"No space left on device; nothing was kept" in content
        assert state(server)["done"] == 0


def test_a_port_that_is_taken_is_said(made) -> None:
    with served(made) as server, pytest.raises(ValueError, match=r"cannot listen at .*; take another --port"):
        open_blind(made, port=server.server_address[1])


@pytest.mark.skipif(not chromium.is_there(), reason="needs Debian's chromium")
def test_a_person_judges_by_keyboard_in_a_browser(made) -> None:
    ready = "document.getElementById('judging').getAttribute('aria-busy') === 'false'"
    with served(made) as server, chromium.Chromium(width=400, height=800) as page:
        page.open(server.url)
        page.until(ready)
        assert page.ask("document.documentElement.scrollWidth") == 400
        for number, key in enumerate(("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp"), start=1):
            page.key(key)
            page.until(
                f"document.getElementById('progress').textContent === '{number} of 6 judged' && {ready}"
            )
        page.key("u")
        page.until(f"document.getElementById('progress').textContent === '3 of 6 judged' && {ready}")
        kept = read_judgement(answers_file(made.folder, "judge")).answers
        assert [one.answer for one in kept] == ["left", "right", "tie"]
        for number, key in enumerate("tbt", start=4):
            page.key(key)
            page.until(f"document.getElementById('progress').textContent === '{number} of 6 judged'")
            page.until(f"{ready} || !document.getElementById('finished').hidden")
        assert "base" not in page.ask("document.body.innerText")
        page.ask("document.getElementById('reveal').click()")
        page.until("!document.getElementById('result').hidden")
        assert "better against base" in page.ask("document.body.innerText")
        assert page.errors == [] and all(one.startswith((server.url, "data:")) for one in page.requests)
