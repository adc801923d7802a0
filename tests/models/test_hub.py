"""Finding a pipeline: what is said, in one line, when it is not there, not whole, or not ours to read.

The hub is a small local server that speaks its protocol; the client is the real one, in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from divrl_core.models import hub
from divrl_core.models.flux import FluxAdapter
from divrl_core.models.hub import open_pipeline

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def copy(tiny_pipeline: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline that a test may break."""
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# Folders


def test_a_whole_folder_is_opened(tiny_pipeline: Path) -> None:
    folder = open_pipeline(str(tiny_pipeline))
    assert folder.path == tiny_pipeline
    assert folder.classes["vae"] == "AutoencoderTiny"
    assert folder.image_size_px == 64


def test_without_our_own_file_the_model_is_taken_for_512_px(copy: Path) -> None:
    (copy / "divrl.json").unlink()
    assert open_pipeline(str(copy)).image_size_px == 512


def test_a_missing_pocket_model_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "POCKET_FOLDER", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="run `divrl-train pocket build`"):
        open_pipeline("pocket")


def test_pocket_is_the_embedded_folder(monkeypatch: pytest.MonkeyPatch, tiny_pipeline: Path) -> None:
    assert hub.POCKET_FOLDER == ROOT / "divrl_core" / "pocket" / "weights"
    monkeypatch.setattr(hub, "POCKET_FOLDER", tiny_pipeline)
    assert open_pipeline("pocket").path == tiny_pipeline


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (without("model_index.json"), "not a diffusers pipeline: no model_index.json in it"),
        (lambda f: (f / "model_index.json").write_text("{"), "model_index.json: not readable as JSON"),
        (lambda f: (f / "model_index.json").write_text("[]"), "a JSON object is needed, got a list"),
        (
            lambda f: edit(f / "model_index.json", _class_name="FluxFillPipeline"),
            "a FluxKontextPipeline or FluxPipeline is needed, model_index.json says FluxFillPipeline",
        ),
        (
            lambda f: edit(f / "model_index.json", vae=[None, None]),
            "incomplete: model_index.json names no vae",
        ),
        (
            lambda f: edit(f / "model_index.json", vae=["diffusers", "AutoencoderDC"]),
            "vae must be AutoencoderKL or AutoencoderTiny, model_index.json says AutoencoderDC",
        ),
        (without("transformer"), r"incomplete: transformer/ lacks config.json; download or save"),
        (
            without("transformer/diffusion_pytorch_model.safetensors"),
            r"incomplete: transformer/ lacks \*.safetensors",
        ),
        (without("tokenizer_2/tokenizer.json"), "tokenizer_2/ lacks tokenizer.json or spiece.model"),
        (without("scheduler/scheduler_config.json"), "scheduler/ lacks scheduler_config.json"),
        (
            lambda f: edit(f / "divrl.json", image_size_px=100),
            r"image_size_px must be a multiple of 16 .* got 100",
        ),
        (
            lambda f: edit(f / "scheduler" / "scheduler_config.json", use_karras_sigmas=True),
            "use_karras_sigmas=True is not supported",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(
    copy: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(copy)
    with pytest.raises((ValueError, FileNotFoundError), match=words) as refusal:
        FluxAdapter.load(str(copy))
    assert str(copy) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_path_that_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder, and not a hub id of the form owner/name"):
        open_pipeline(str(tmp_path / "nothing"))


def test_a_single_file_is_refused(tiny_pipeline: Path) -> None:
    file = tiny_pipeline / "transformer" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ValueError, match=r"is a file; a diffusers folder with model_index\.json"):
        open_pipeline(str(file))


# Weights


def lose_a_weight(path: Path) -> None:
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path, metadata={"format": "pt"})


def reshape_a_weight(path: Path) -> None:
    weights = load_file(path)
    weights[min(weights)] = torch.zeros(3)
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "could not be loaded as"),
        (lose_a_weight, "1 weights of .* are not in the files, the first is "),
        (reshape_a_weight, "could not be loaded as"),
    ],
)
@pytest.mark.parametrize("component", ["transformer", "text_encoder_2"])
def test_damaged_weights_are_refused_in_one_line(
    copy: Path, component: str, damage: Callable[[Path], None], words: str
) -> None:
    damage(next((copy / component).glob("*.safetensors")))
    adapter = FluxAdapter.load(str(copy))
    with pytest.raises(ValueError, match=words) as refusal:
        _ = adapter.transformer if component == "transformer" else adapter.encode_text(["a fox"])
    assert str(copy / component) in str(refusal.value)
    assert "\n" not in str(refusal.value)


# The hub


class Hub(ThreadingHTTPServer):
    """Answers as the hub does for one good model and for several kinds of refusal; remembers what was asked."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubRequest)
        self.folder = folder
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class HubRequest(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if "/owner/gated" in self.path:
            self.refuse(401, "GatedRepo")
        elif "/owner/unfinished" in self.path:
            self.refuse(404, "EntryNotFound")
        elif "/owner/tiny" in self.path and "/no-such-branch" in self.path:
            self.refuse(404, "RevisionNotFound")
        elif "/owner/tiny" in self.path:
            self.serve()
        else:
            self.refuse(401, "RepoNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def serve(self) -> None:
        folder = self.server.folder
        if self.path.startswith("/api/"):
            names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
            if "/tree/" in self.path:
                sizes = [(name, (folder / name).stat().st_size) for name in names]
                entries = [
                    {"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes
                ]
                body = json.dumps(entries).encode()
            else:
                siblings = [{"rfilename": name} for name in names]
                body = json.dumps({"id": "owner/tiny", "sha": COMMIT, "siblings": siblings}).encode()
        else:
            body = (
                folder / self.path.split(f"/resolve/{COMMIT}/")[-1].split("/resolve/main/")[-1]
            ).read_bytes()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server(copy: Path) -> Iterator[Hub]:
    (copy / "flux1-kontext-dev.safetensors").write_bytes(b"the same weights once more, 24 GB")
    with Hub(copy) as hub_server:
        thread = threading.Thread(target=hub_server.serve_forever, daemon=True)
        thread.start()
        yield hub_server
        hub_server.shutdown()
        thread.join()


ASK = (
    "import sys; from divrl_core.models.hub import open_pipeline\n"
    "try: print(open_pipeline(sys.argv[1], sys.argv[2] or None).path)\n"
    "except (ValueError, FileNotFoundError) as error: print(type(error).__name__, error)\n"
)


def ask(path: str, cache: Path, revision: str | None = None, program: str = ASK, **environment: str) -> str:
    """What `open_pipeline` answers in a fresh process: its folder, or the error's class and words."""
    clean = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("HF_", "HUGGING")) and "proxy" not in k.lower()
    }
    clean |= {"HF_HOME": str(cache), "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", program, path, revision or ""],
        env=clean,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_hub_model_is_downloaded_without_the_single_file_beside_it(server: Hub, tmp_path: Path) -> None:
    folder = Path(ask("owner/tiny", tmp_path / "cache", HF_ENDPOINT=server.address))
    here = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    there = {str(path.relative_to(server.folder)) for path in server.folder.rglob("*") if path.is_file()}
    assert here == there - {"flux1-kontext-dev.safetensors"}
    assert not any("flux1-kontext-dev" in path for path in server.asked)
    offline = ask("owner/tiny", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert Path(offline) == folder


def test_beside_a_transformer_file_the_transformers_weights_are_not_downloaded(
    server: Hub, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path; from divrl_core.models.hub import open_pipeline\n"
        "print(open_pipeline('owner/tiny', transformer_file=Path('mine.safetensors')).path)\n"
    )
    folder = Path(ask("", tmp_path / "cache", program=program, HF_ENDPOINT=server.address))
    assert {path.name for path in (folder / "transformer").iterdir()} == {"config.json"}
    assert list((folder / "text_encoder_2").glob("*.safetensors"))
    assert not any("transformer/diffusion" in path for path in server.asked)


def test_pickles_are_not_downloaded(server: Hub, tmp_path: Path) -> None:
    (server.folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"not looked at")
    folder = Path(ask("owner/tiny", tmp_path / "cache", HF_ENDPOINT=server.address))
    assert not list(folder.rglob("*.bin"))
    assert not any(path.endswith(".bin") for path in server.asked)


def test_a_wrong_model_is_refused_before_its_weights_are_downloaded(server: Hub, tmp_path: Path) -> None:
    edit(server.folder / "model_index.json", _class_name="StableDiffusionPipeline")
    answer = ask("owner/tiny", tmp_path, HF_ENDPOINT=server.address)
    assert answer == (
        "ValueError owner/tiny: a FluxKontextPipeline or FluxPipeline is needed, "
        "model_index.json says StableDiffusionPipeline"
    )
    assert not any("safetensors" in path for path in server.asked)


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        (
            "owner/gated",
            None,
            ["ValueError", "accept its licence on", "hf auth login", "Non-Commercial License"],
        ),
        ("owner/nothing", None, ["FileNotFoundError", "no such folder here, and no such model on the hub"]),
        ("owner/unfinished", None, ["ValueError", "the hub has no model_index.json in it"]),
        ("owner/tiny", "no-such-branch", ["FileNotFoundError", "no revision 'no-such-branch'"]),
    ],
)
def test_the_hubs_refusals_are_one_line_that_says_what_to_do(
    server: Hub, tmp_path: Path, name: str, revision: str | None, words: list[str]
) -> None:
    answer = ask(name, tmp_path, revision, HF_ENDPOINT=server.address)
    assert name in answer and "\n" not in answer
    for word in words:
        assert word in answer


def test_without_a_network_the_pocket_model_is_offered(tmp_path: Path) -> None:
    answer = ask("owner/tiny", tmp_path, HF_HUB_OFFLINE="1")
    assert answer.startswith("FileNotFoundError owner/tiny: no such folder here, not in the local cache")
    assert answer.endswith('"pocket" needs no network')
