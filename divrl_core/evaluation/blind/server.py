"""The page on which a person judges blind, at an address of this computer alone.

GET /                                the page
GET /state                           the pair that is to be judged, how many are
GET /pictures/TOKEN/NUMBER/SIDE      a picture of a pair, as bare pixels
POST /answers, /undo, /end           JSON in, the new state out

Requests that do not name this computer as their host, or come from another page, are refused: nothing that a browser
has open elsewhere can answer.
"""

from __future__ import annotations

import json
import logging
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jinja2

from ..contest.evaluated import Evaluation
from .session import NotNow, Session

logger = logging.getLogger("divrl")

HOST = "127.0.0.1"
MOST_BODY_BYTES = 4096
SILENCE_S = 30.0
JSON, HTML, PNG = "application/json", "text/html; charset=utf-8", "image/png"
CSP = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


class Refused(Exception):
    """A request that is not answered: the HTTP code, and why in one line."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class BlindServer(ThreadingHTTPServer):
    """Answers until it is shut down."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        """Listens at once; port 0 = any that is free. Raises ValueError when it cannot."""
        self.session = session
        self.page = blind_page().encode("utf-8")
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"cannot listen at {HOST}:{port}: {why}; take another --port") from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_address[1]}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a browser of this computer may call it."""
        port = self.server_address[1]
        return f"{HOST}:{port}", f"localhost:{port}"


def open_blind(
    evaluation: Evaluation, *, judge: str = "judge", seed: int = 0, most: int | None = None, port: int = 0
) -> BlindServer:
    """A server for one person's session, where it was left. Raises ValueError where there is nothing to judge."""
    return BlindServer(Session(evaluation, judge=judge, seed=seed, most=most), port)


def blind_page() -> str:
    """The page; it asks the server for all it shows."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent.parent / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page: str = environment.get_template("blind.html.j2").render()
    return page


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: BlindServer
    protocol_version = "HTTP/1.1"
    server_version = "divrl-blind"
    sys_version = ""
    timeout = SILENCE_S
    error_content_type = JSON
    error_message_format = '{"error": "%(message)s"}'

    def do_GET(self) -> None:
        """The page, the state, a picture."""
        self._answer(self._got)

    def do_POST(self) -> None:
        """An answer, an undo, the end."""
        self._answer(self._posted)

    def _answer(self, work: Any) -> None:
        try:
            self._check_host()
            content, kind, seconds = work()
            self._send(200, content, kind, seconds)
        except Refused as refused:
            self._refuse(refused)
        except NotNow as error:
            self._refuse(Refused(409, str(error)))
        except ValueError as error:
            self._refuse(Refused(400, str(error)))
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser is gone
        except OSError as error:
            logger.exception("blind: a request failed")
            self._refuse(Refused(500, f"the disk refused: {error.strerror or error}; nothing was kept"))

    def _got(self) -> tuple[bytes, str, int]:
        """Content, its type, how many seconds a browser may keep it."""
        if self.path == "/":
            return self.server.page, HTML, 0
        session = self.server.session
        if self.path == "/state":
            return _json(session.state()), JSON, 0
        found = re.fullmatch(r"/pictures/([0-9a-f]{12})/(\d{1,9})/(reference|left|right)", self.path)
        if found is None or found[1] != session.token:
            raise Refused(404, "there is / here, with all that it asks for")
        return session.picture(int(found[2]), found[3]), PNG, 3600

    def _posted(self) -> tuple[bytes, str, int]:
        body = self._body()
        session = self.server.session
        if self.path == "/answers":
            number, seconds = body.get("pair"), body.get("seconds", 0.0)
            if type(number) is not int or not isinstance(seconds, (int, float)) or seconds != seconds:
                raise Refused(400, "an answer needs pair (a whole number), answer and seconds (a number)")
            return _json(session.answer(number, str(body.get("answer")), float(seconds))), JSON, 0
        if self.path == "/undo":
            return _json(session.undo()), JSON, 0
        if self.path == "/end":
            return _json(session.end()), JSON, 0
        raise Refused(404, "POST to /answers, /undo or /end")

    def _check_host(self) -> None:
        origin = self.headers.get("Origin")
        if self.headers.get("Host") not in self.server.hosts:
            raise Refused(403, f"open {self.server.url} on this computer")
        if origin is not None and origin.removeprefix("http://") not in self.server.hosts:
            raise Refused(403, "another page may not answer here")

    def _body(self) -> dict[str, Any]:
        # The body is read before anything but its size is judged, so that it is not taken for the next request.
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MOST_BODY_BYTES:
            self.close_connection = True
            raise Refused(413, f"a body has a Content-Length of at most {MOST_BODY_BYTES} bytes")
        text = self.rfile.read(int(length))
        if self.headers.get_content_type() != JSON:
            raise Refused(415, f"Content-Type must be {JSON}")
        try:
            body = json.loads(text)
        except ValueError as error:
            raise Refused(400, f"the body is no JSON ({error})") from error
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        return body

    def _refuse(self, refused: Refused) -> None:
        logger.info("blind: refused (%d): %s", refused.status, refused)
        self._send(refused.status, _json({"error": str(refused)}), JSON, 0)

    def _send(self, status: int, content: bytes, kind: str, seconds: int) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", f"private, max-age={seconds}" if seconds else "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Content-Security-Policy", CSP)
            if self.close_connection:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(content)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Each request, for those who look closely."""
        logger.debug(format, *args)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode("utf-8")
