"""One real ComfyUI server with this repository as its only custom node pack, and the few calls tests need."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from .install import ComfyUI

REPOSITORY = Path(__file__).resolve().parents[2]
PACK = "ComfyUI-DivRL"
FOLDERS = ("custom_nodes", "models", "input", "output", "temp", "user")
START_SECONDS = 180.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.05
COLOUR = re.compile(r"\x1b\[[\d;]*m")
TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n)+.*")

Workflow = dict[str, dict[str, Any]]
Outputs = dict[str, dict[str, Any]]


class WorkflowRefused(RuntimeError):
    """The server found a workflow invalid; `details` is its answer."""

    def __init__(self, details: dict[str, Any]) -> None:
        super().__init__(json.dumps(details, indent=1))
        self.details = details


class WorkflowFailed(RuntimeError):
    """A node raised, or the run was interrupted in it; `details` is the server's own message."""

    def __init__(self, node_type: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(f"{node_type}: {message}")
        self.node_type = node_type
        self.message = message
        self.details = details


class Server:
    """A ComfyUI server on the CPU, running inside the with block; `base` holds its models, input and output."""

    def __init__(
        self,
        comfyui: ComfyUI,
        base: Path,
        *,
        frontend: bool = False,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui = comfyui
        self.base = base
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._frontend = frontend
        self._arguments = tuple(arguments)
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
        self._log = base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        """Starts the server and waits until it answers."""
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        pack = self.base / "custom_nodes" / PACK
        if not pack.is_symlink():
            pack.symlink_to(REPOSITORY, target_is_directory=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.comfyui.root,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        atexit.register(self.stop)
        try:
            self._wait_for_start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops the server."""
        self.stop()

    def stop(self) -> None:
        """Ends the server and all that it started; again is no error."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is None:
            return
        send(process, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            send(process, getattr(signal, "SIGKILL", signal.SIGTERM))
            process.wait()

    def wait_for_end(self) -> None:
        """Waits until the server ends by itself."""
        assert self._process is not None
        self._process.wait()

    def object_info(self, node_id: str) -> dict[str, Any]:
        """What the server tells its pages of one node type."""
        return self._json(f"/object_info/{urllib.parse.quote(node_id)}")[node_id]

    def every_object_info(self) -> dict[str, Any]:
        """What the server tells its pages of all node types."""
        return self._json("/object_info")

    def post(self, workflow: Workflow) -> str:
        """Queues a workflow in API format; its prompt id."""
        try:
            return self._json("/prompt", {"prompt": workflow})["prompt_id"]
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise WorkflowRefused(json.load(error)) from None

    def wait(self, prompt_id: str, timeout: float = 120.0) -> dict[str, Any]:
        """The history entry of a prompt, once it has ended well or badly."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            history = self._json(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"the workflow has not ended within {timeout:g} s:\n{self._tail()}")

    def run(self, workflow: Workflow, timeout: float = 120.0) -> Outputs:
        """Runs a workflow to its end; what its output nodes showed, by node id."""
        entry = self.wait(self.post(workflow), timeout)
        if entry["status"]["status_str"] == "error":
            _, details = entry["status"]["messages"][-1]
            raise WorkflowFailed(
                details["node_type"], details.get("exception_message", "interrupted"), details
            )
        return entry["outputs"]

    def interrupt(self) -> None:
        """Stops the workflow that runs now at its next step."""
        self._bytes("/interrupt", b"{}")

    def queue_running(self) -> int:
        """How many workflows run now."""
        return len(self._json("/queue")["queue_running"])

    def forget(self) -> None:
        """Unloads all models and drops what was cached of earlier runs."""
        self._bytes("/free", b'{"unload_models": true, "free_memory": true}')

    def templates(self) -> dict[str, list[str]]:
        """The names of the example workflows that each pack offers to the template browser."""
        return self._json("/workflow_templates")

    def page(self, path: str) -> bytes:
        """What the server answers to a GET of a path."""
        return self._bytes(urllib.parse.quote(path))

    def file(self, entry: Mapping[str, str]) -> bytes:
        """The content of a file that an output names by filename, subfolder and type."""
        query = {key: entry[key] for key in ("filename", "subfolder", "type")}
        return self._bytes(f"/view?{urllib.parse.urlencode(query)}")

    def log(self) -> str:
        """All that the server has printed, without colours."""
        return COLOUR.sub("", self._log.read_text("utf-8", errors="replace")) if self._log.exists() else ""

    def _command(self) -> list[str]:
        """The command line of the server."""
        options = ["--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        options += ["--base-directory", str(self.base), "--disable-auto-launch", "--disable-api-nodes"]
        options += ["--database-url", "sqlite:///:memory:"]
        if not self._frontend:
            page = self.base / "page" / "index.html"
            page.parent.mkdir(exist_ok=True)
            page.write_text("<!doctype html><title>no frontend</title>\n")
            options += ["--front-end-root", str(page.parent)]
        return [str(self.comfyui.python), "main.py", *options, *self._arguments]

    def _wait_for_start(self) -> None:
        """Returns when the server answers; raises with the end of its log where it dies or hangs."""
        assert self._process is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode}:\n{self._tail()}")
            with contextlib.suppress(OSError):
                self._json("/system_stats")
                return
            time.sleep(POLL_SECONDS)
        raise TimeoutError(f"ComfyUI did not answer within {START_SECONDS:g} s:\n{self._tail()}")

    def _json(self, path: str, body: Any = None) -> Any:
        """The server's answer to a GET, or to a POST of `body`."""
        return json.loads(self._bytes(path, None if body is None else json.dumps(body).encode()))

    def _bytes(self, path: str, body: bytes | None = None) -> bytes:
        """The raw answer to a GET, or to a POST of `body`."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=60
            ) as got:
                return got.read()
        except urllib.error.HTTPError:
            raise
        except OSError as error:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI has died:\n{self._tail()}") from error
            raise

    def _tail(self, lines: int = 60) -> str:
        """The end of the log."""
        return "\n".join(self.log().splitlines()[-lines:])


def import_seconds(log: str, name: str) -> float | None:
    """How long a custom node pack took to import, by the server's own list; None where it failed or is absent."""
    section = log.partition("Import times for custom nodes:")[2]
    found = re.search(rf"^(?:\[INFO\])? *([\d.]+) seconds: .*[/\\]{re.escape(name)}$", section, re.MULTILINE)
    return float(found[1]) if found else None


def tracebacks(log: str) -> list[str]:
    """The tracebacks in a log, each with the line that names its exception."""
    return TRACEBACK.findall(log)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def send(process: subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a process and to those it started, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        if os.name == "nt":
            process.terminate()
        else:
            os.killpg(process.pid, number)
