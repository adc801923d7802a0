"""Where a segmentation model lies and which classes are its subject, told before a weight is read.

A folder or hub id of transformers' own classes with .safetensors weights (no pickle is fetched or read, no code that
came with a model is run), or a .onnx file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ...config import SegmenterConfig
from ..fingerprint import files_fingerprint
from ..model_names import is_hub_id
from .subject import subject_classes

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
NEEDED = (CONFIG, PROCESSOR, "*.safetensors")
PACKAGE_HINT = (
    'a .onnx file needs the package onnxruntime: pip install "divrl[onnx]" (or pip install onnxruntime)'
)
SEMANTIC_ENDING = "ForSemanticSegmentation"
SEGMENT_ENDINGS = ("ForUniversalSegmentation", "ForInstanceSegmentation", "DetrForSegmentation")
# These take more than a picture: a text beside it, or several pictures.
REFUSED = ("OneFormerForUniversalSegmentation", "VideomtForUniversalSegmentation")


@dataclass(frozen=True)
class SegmenterFiles:
    """A segmentation model whose files are there."""

    name: str
    """What the user named."""
    kind: str
    """onnx, semantic (a class for each pixel) or segments (instance, panoptic and universal models)."""
    files: tuple[Path, ...]
    """All that its answers depend on."""
    architecture: str = ""
    """The class of transformers."""
    classes: Mapping[int, str] = field(default_factory=dict)
    """Names of its classes."""
    subject: frozenset[int] = frozenset()
    """Numbers of the classes that may be the subject."""

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self.files[0].parent

    @property
    def fingerprint(self) -> str:
        """A short name for the files' content."""
        return files_fingerprint(self.files)


def find_segmenter(config: SegmenterConfig) -> SegmenterFiles:
    """Find the model that the settings name and check all that its files say; a hub id is downloaded if need be.

    Raises FileNotFoundError when it is not there, ValueError when it is another kind of model, lacks a file or knows no
    such label, ImportError when a package is missing; one line each.
    """
    assert config.model is not None
    name = config.model
    path = Path(name).expanduser()
    if config.is_onnx:
        return _onnx(name, path)
    if path.is_file():
        raise ValueError(
            f"{name}: a folder or hub id of a segmentation model, or a .onnx file, is needed, got a file"
        )
    if not path.is_dir():
        if not is_hub_id(name):
            raise FileNotFoundError(f"{name}: no such folder, no .onnx file, and no hub id (owner/name)")
        path = _download(name)
    for pattern in NEEDED:
        if not any(path.glob(pattern)):
            raise ValueError(f"{name}: no {pattern} in this folder; {_hint(path, pattern)}")
    about = _read(path / CONFIG, name)
    architecture = _architecture(about, name)
    is_semantic = architecture.endswith(SEMANTIC_ENDING)
    classes = {int(number): str(text) for number, text in (about.get("id2label") or _UNNAMED).items()}
    return SegmenterFiles(
        name=name,
        kind="semantic" if is_semantic else "segments",
        files=tuple(sorted(file for pattern in (CONFIG, PROCESSOR, "*.safetensors*") for file in path.glob(pattern))),
        architecture=architecture,
        classes=classes,
        subject=subject_classes(
            classes, config.subject_labels, name=name, finds_segments=not is_semantic
        ),
    )  # fmt: skip


def segmenter_problems(config: SegmenterConfig) -> list[str]:
    """What keeps the model from being used, a line each; nothing is loaded, and of a hub id nothing is known yet."""
    if config.model is None:
        return []
    is_elsewhere = is_hub_id(config.model) and not Path(config.model).expanduser().exists()
    if is_elsewhere and not config.is_onnx:
        return []
    try:
        find_segmenter(config)
    except (FileNotFoundError, ValueError, ImportError) as error:
        return [str(error)]
    return []


_UNNAMED = {0: "LABEL_0", 1: "LABEL_1"}  # what transformers takes where a config names no classes


def _onnx(name: str, path: Path) -> SegmenterFiles:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: there is no such .onnx file")
    if find_spec("onnxruntime") is None:
        raise ImportError(f"{name}: {PACKAGE_HINT}")
    # Weights beyond 2 GB lie beside the file, as model.onnx_data or model.onnx.data.
    beside = [file for file in path.parent.glob(f"{path.name}*") if file.is_file() and file != path]
    return SegmenterFiles(name=name, kind="onnx", files=(path, *sorted(beside)))


def _architecture(about: Mapping[str, Any], name: str) -> str:
    architectures = about.get("architectures") or []
    architecture = str(architectures[0]) if architectures else "no class"
    if architecture.endswith((SEMANTIC_ENDING, *SEGMENT_ENDINGS)) and architecture not in REFUSED:
        return architecture
    own = "; code that comes with a model is not run, take a .onnx file of it" if "auto_map" in about else ""
    raise ValueError(
        f"{name}: needs a segmentation model of transformers (…{SEMANTIC_ENDING}, …{SEGMENT_ENDINGS[0]}, "
        f"…{SEGMENT_ENDINGS[1]}), its {CONFIG} says {architecture}{own}"
    )


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{name}: {path.name} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path.name} must be a JSON object, got a {type(content).__name__}")
    return content


def _hint(folder: Path, pattern: str) -> str:
    if pattern.endswith(".safetensors"):
        return "pickles (.bin) are not read: get or save the model as safetensors"
    return "give the folder that save_pretrained wrote, with its image processor"


def _download(hub_id: str) -> Path:
    """The local copy of a hub id: its class is looked at before its weights are fetched, and no pickle is."""
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    try:
        _architecture(_read(Path(hf_hub_download(hub_id, CONFIG)), hub_id), hub_id)
        return Path(snapshot_download(hub_id, allow_patterns=[CONFIG, PROCESSOR, "*.safetensors*"]))
    except errors.GatedRepoError as error:
        raise ValueError(
            f"{hub_id}: gated on the hub: accept its licence on https://huggingface.co/{hub_id}, then `hf auth login`"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{hub_id}: no such folder here, not in the local cache, and the hub cannot be reached; go online, or "
            "download it elsewhere and give its folder"
        ) from error
    except (OSError, errors.HFValidationError) as error:  # the hub's errors are OSErrors
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FileNotFoundError(
            f"{hub_id}: no such folder here, and not to be had of the hub: {first_line}"
        ) from error
