"""What a pipeline is made of, from its config.json files alone: enough to plan a run, no weights needed.

Of a hub id the configuration files are fetched, a few kilobytes. Where the hub cannot be asked, FLUX.1-dev and
FLUX.1-Kontext-dev are planned from their published configuration, and the plan says so.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, errors, hf_hub_download

from .hub import FULL_IMAGE_SIZE_PX, INDEX_FILE, SETTINGS_FILE, read_json
from .model_names import (
    PIPELINES,
    POCKET_FOLDER,
    POCKET_TEXT_TO_IMAGE,
    POCKETS,
    TEXT_TO_IMAGE_PART,
    is_hub_id,
)
from .published_configs import PUBLISHED_CLASSES, PUBLISHED_PARTS, PUBLISHED_PIPELINES
from .text import FULL_TEXT_TOKENS

PARTS = {
    "transformer": "config.json",
    "vae": "config.json",
    "text_encoder": "config.json",
    "text_encoder_2": "config.json",
    "tokenizer_2": "tokenizer_config.json",
}
PROBE_SECONDS = 4.0  # the hub's client alone would try for 24 seconds

Read = Callable[[str], "dict[str, Any]"]


@dataclass(frozen=True, kw_only=True)
class PipelineConfig:
    """The configuration of a FLUX pipeline's parts."""

    name: str
    """As the settings name it."""
    parts: Mapping[str, Mapping[str, Any]]
    """Component -> the content of its configuration file."""
    classes: Mapping[str, str]
    """Component -> its class."""
    layout: str
    """The reference's layout that belongs to the pipeline's class."""
    image_size_px: int
    """Side of the square pictures that the model is made for."""
    text_tokens: int
    """T5 tokens a prompt has where the settings do not say."""
    remark: str | None = None
    """Where the configuration is not the model's own: why, in a sentence for the plan."""

    @property
    def blocks(self) -> tuple[int, int]:
        """Numbers of double and single blocks."""
        transformer = self.parts["transformer"]
        return int(transformer.get("num_layers", 19)), int(transformer.get("num_single_layers", 38))


def pipeline_config(path: str, revision: str | None = None) -> PipelineConfig:
    """Read the configuration of "pocket", a folder or a hub id. No weights are read, and need not be there.

    Raises FileNotFoundError when there is no such model, ValueError when it is something else. One line each.
    """
    if path in POCKETS:
        part = TEXT_TO_IMAGE_PART if path == POCKET_TEXT_TO_IMAGE else "transformer"
        layout = "width" if path == POCKET_TEXT_TO_IMAGE else None
        return _assembled(path, _folder_reader(POCKET_FOLDER), transformer=part, layout=layout)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return _assembled(path, _folder_reader(folder))
    if folder.exists():
        raise ValueError(f"model.path: {path} is a file; a diffusers folder with {INDEX_FILE} is needed")
    if not is_hub_id(path):
        raise FileNotFoundError(f"model.path: no folder {path!r}, and not a hub id of the form owner/name")
    try:
        _check_reachable(path)
        return _assembled(path, _hub_reader(path, revision))
    except OSError as error:  # the hub's errors are OSErrors
        reason = _hub_reason(error)
        if path in PUBLISHED_PIPELINES and not isinstance(error, errors.RevisionNotFoundError):
            return _published(path, reason)
        raise FileNotFoundError(
            f"model.path: {path}: {reason}; give a folder, or plan with pocket"
        ) from error


def _published(path: str, reason: str) -> PipelineConfig:
    return PipelineConfig(
        name=path,
        parts=PUBLISHED_PARTS,
        classes=PUBLISHED_CLASSES,
        layout=PIPELINES[PUBLISHED_PIPELINES[path]],
        image_size_px=FULL_IMAGE_SIZE_PX,
        text_tokens=FULL_TEXT_TOKENS,
        remark=f"{reason}: planned from the published configuration of {path}",
    )


def _assembled(
    path: str, read: Read, *, transformer: str = "transformer", layout: str | None = None
) -> PipelineConfig:
    index = read(INDEX_FILE)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(
            f"model.path: {path}: needs a {' or '.join(PIPELINES)}, {INDEX_FILE} says {pipeline}"
        )
    folders = {part: transformer if part == "transformer" else part for part in PARTS}
    parts = {part: read(f"{folders[part]}/{file}") for part, file in PARTS.items()}
    classes = {name: entry[1] for name, entry in index.items() if isinstance(entry, list) and len(entry) == 2}
    try:
        size = read(SETTINGS_FILE).get("image_size_px", FULL_IMAGE_SIZE_PX)
    except FileNotFoundError:
        size = FULL_IMAGE_SIZE_PX
    longest = parts["tokenizer_2"].get("model_max_length", FULL_TEXT_TOKENS)
    return PipelineConfig(
        name=path,
        parts=parts,
        classes=classes,
        layout=layout or PIPELINES[pipeline],
        image_size_px=int(size),
        text_tokens=int(min(longest, FULL_TEXT_TOKENS)),
    )


def _folder_reader(folder: Path) -> Read:
    def read(name: str) -> dict[str, Any]:
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"model.path: {folder}: no {name} in it; a diffusers folder is needed")
        return read_json(path)

    return read


def _hub_reader(hub_id: str, revision: str | None) -> Read:
    def read(name: str) -> dict[str, Any]:
        try:
            return read_json(Path(hf_hub_download(hub_id, name, revision=revision)))
        except errors.EntryNotFoundError as error:
            if isinstance(error, errors.LocalEntryNotFoundError):
                raise
            raise FileNotFoundError(f"the hub has no {name} in it") from error

    return read


def _check_reachable(hub_id: str) -> None:
    """Raise OSError at once where the hub cannot be reached and holds nothing here already."""
    address = urlsplit(constants.ENDPOINT)
    folder = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}"
    if constants.HF_HUB_OFFLINE or folder.is_dir() or address.scheme in getproxies():
        return  # its client knows best
    port = address.port or (443 if address.scheme == "https" else 80)
    with socket.create_connection((address.hostname, port), timeout=PROBE_SECONDS):
        return


def _hub_reason(error: OSError) -> str:
    if isinstance(error, errors.GatedRepoError):
        return "its licence on the hub is not accepted yet (hf auth login)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the hub has no such model"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision of it"
    if type(error) is FileNotFoundError:
        return str(error)
    return "the hub cannot be reached"
