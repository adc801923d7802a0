"""Where a FLUX pipeline lies, and whether it is one: folders, hub ids, and the embedded pocket models.

Everything is checked here, before any weights are read, and said in one line. A hub id is downloaded as
diffusers' sub-folders only: FLUX's repositories hold the same weights a second time as one large file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import errors, hf_hub_download, snapshot_download

from .model_names import (
    PIPELINES,
    POCKET_FOLDER,
    POCKET_TEXT_TO_IMAGE,
    POCKETS,
    TEXT_TO_IMAGE_PART,
    is_hub_id,
)
from .tensor_headers import PICKLES

INDEX_FILE = "model_index.json"
SETTINGS_FILE = "divrl.json"  # ours, beside model_index.json, optional: {"image_size_px": 128}
FULL_IMAGE_SIZE_PX = 512  # the paper's training size, where the folder says nothing


# Component -> the classes that this adapter can work with.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "transformer": ("FluxTransformer2DModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("T5EncoderModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("T5TokenizerFast", "T5Tokenizer"),
}
WEIGHT_FILES = ("*.safetensors",)
# Component -> files of which one of each line must be there. Transformers makes an empty tokenizer, without a
# word, where the vocabulary is missing.
_NEEDED_FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "transformer": (("config.json",), WEIGHT_FILES),
    "vae": (("config.json",), WEIGHT_FILES),
    "scheduler": (("scheduler_config.json",),),
    "text_encoder": (("config.json",), WEIGHT_FILES),
    "text_encoder_2": (("config.json",), WEIGHT_FILES),
    "tokenizer": (("tokenizer.json", "vocab.json"),),
    "tokenizer_2": (("tokenizer.json", "spiece.model"),),
}


@dataclass(frozen=True)
class PipelineFolder:
    """A FLUX pipeline on disk whose files are all there."""

    path: Path
    """The diffusers folder, with model_index.json in it."""
    classes: Mapping[str, str]
    """Component -> its class name, from model_index.json."""
    image_size_px: int
    """Side of the square pictures that the model is made for, in pixels."""
    layout: str = "kontext"
    """The reference's layout that belongs to the pipeline's class."""
    transformer: str = "transformer"
    """The folder of the transformer within `path`."""
    transformer_file: Path | None = None
    """A file that holds the transformer's weights in place of that folder, which then needs its config.json alone."""

    def part(self, component: str) -> Path:
        """The folder of a component."""
        return self.path / (self.transformer if component == "transformer" else component)


def open_pipeline(
    path: str, revision: str | None = None, *, transformer_file: Path | None = None
) -> PipelineFolder:
    """Find a pipeline and check that it is a whole FLUX pipeline; a hub id is downloaded if need be.

    Args:
        path: "pocket", "pocket-text-to-image", a diffusers folder, or a hub id such as
            "black-forest-labs/FLUX.1-Kontext-dev".
        revision: branch, tag or commit of a hub id; None is the newest.
        transformer_file: a single file with the transformer's weights; the pipeline's own are then neither needed
            nor downloaded.

    Raises FileNotFoundError when nothing is found (or the hub cannot be reached), and ValueError when it is
    something else, a part is missing, or the hub asks for a licence to be accepted. One line each.
    """
    if path in POCKETS:
        if not (POCKET_FOLDER / INDEX_FILE).is_file():
            raise FileNotFoundError(
                f"{POCKET_FOLDER}: the embedded pocket model is not there; run `divrl-train pocket build`"
            )
        pocket = check_folder(POCKET_FOLDER, transformer_file)
        return _text_to_image(pocket) if path == POCKET_TEXT_TO_IMAGE else pocket
    folder = Path(path).expanduser()
    if folder.is_dir():
        return check_folder(folder, transformer_file)
    if folder.exists():
        raise ValueError(f"{path}: is a file; a diffusers folder with {INDEX_FILE} (or a hub id) is needed")
    if not is_hub_id(path):
        raise FileNotFoundError(f"{path}: no such folder, and not a hub id of the form owner/name")
    return check_folder(_download(path, revision, transformer_file), transformer_file)


def check_folder(folder: Path, transformer_file: Path | None = None) -> PipelineFolder:
    """Check a local folder: a FLUX pipeline, known classes, every file there. Reads no weights.

    The transformer's weights are not looked for where `transformer_file` stands in for them.
    """
    index = read_json(folder / INDEX_FILE)
    classes = _component_classes(index, folder)
    for component, alternatives in _NEEDED_FILES.items():
        for names in alternatives:
            if component == "transformer" and transformer_file is not None and names == WEIGHT_FILES:
                continue
            if not any(any((folder / component).glob(name)) for name in names):
                raise ValueError(
                    f"{folder}: incomplete: {component}/ lacks {' or '.join(names)}; "
                    "download or save the pipeline again"
                )
    return PipelineFolder(
        path=folder,
        classes=classes,
        image_size_px=_image_size_px(folder),
        layout=PIPELINES[index["_class_name"]],
        transformer_file=transformer_file,
    )


def _text_to_image(pocket: PipelineFolder) -> PipelineFolder:
    """The same pipeline with its second transformer, which draws from text alone."""
    return replace(pocket, layout=PIPELINES["FluxPipeline"], transformer=TEXT_TO_IMAGE_PART)


def _component_classes(index: Mapping[str, Any], where: Path | str) -> dict[str, str]:
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(f"{where}: a {' or '.join(PIPELINES)} is needed, {INDEX_FILE} says {pipeline}")
    classes = {}
    for component, accepted in COMPONENTS.items():
        entry = index.get(component)
        name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if name is None:
            raise ValueError(f"{where}: incomplete: {INDEX_FILE} names no {component}")
        if name not in accepted:
            raise ValueError(
                f"{where}: {component} must be {' or '.join(accepted)}, {INDEX_FILE} says {name}"
            )
        classes[component] = name
    return classes


def _image_size_px(folder: Path) -> int:
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return FULL_IMAGE_SIZE_PX
    size = read_json(path).get("image_size_px", FULL_IMAGE_SIZE_PX)
    if not isinstance(size, int) or size < 16 or size % 16:
        raise ValueError(f"{path}: image_size_px must be a multiple of 16 from 16 up, got {size!r}")
    return size


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent}: not a diffusers pipeline: no {path.name} in it; "
            "give the folder that save_pretrained wrote"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object is needed, got a {type(content).__name__}")
    return content


def _download(hub_id: str, revision: str | None, transformer_file: Path | None) -> Path:
    """The local copy of a hub id. The index comes first: a wrong model is refused at once. No pickle is fetched."""
    try:
        index = Path(hf_hub_download(hub_id, INDEX_FILE, revision=revision))
        _component_classes(read_json(index), hub_id)
        patterns = [INDEX_FILE, SETTINGS_FILE, *(f"{component}/*" for component in COMPONENTS)]
        unwanted = [f"*{ending}" for ending in PICKLES]
        if transformer_file is not None:
            unwanted += ["transformer/*.safetensors", "transformer/*.safetensors.index.json"]
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=patterns, ignore_patterns=unwanted)
        )
    except (OSError, errors.HFValidationError) as error:  # the hub's errors are OSErrors
        raise hub_error(hub_id, revision, error) from error


def hub_error(
    hub_id: str,
    revision: str | None,
    error: Exception,
    *,
    kind: str = "a diffusers pipeline",
    needed: str = INDEX_FILE,
    licence: str = "FLUX.1 [dev] models stand under the FLUX.1 [dev] Non-Commercial License",
    offline: str = 'go online, or download it elsewhere and give its folder; "pocket" needs no network',
) -> Exception:
    """The hub's refusal in one line that says what to do. Order matters: some are subclasses of others.

    kind, needed: what was looked for, and the file that shows it. licence: said of a gated model. offline: what to do
    without a network.
    """
    page = f"https://huggingface.co/{hub_id}"
    if isinstance(error, errors.GatedRepoError):
        return ValueError(
            f"{hub_id}: gated on the hub: accept its licence on {page}, then log in with `hf auth login` "
            f"and try again ({licence})"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{hub_id}: no such folder here, and no such model on the hub; check the spelling, or "
            "log in with `hf auth login` if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{hub_id}: the hub has no revision {revision!r} of it; see {page}/tree/main"
        )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return FileNotFoundError(
            f"{hub_id}: no such folder here, not in the local cache, and the hub cannot be reached; {offline}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return ValueError(f"{hub_id}: not {kind}: the hub has no {needed} in it")
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return FileNotFoundError(f"{hub_id}: could not be downloaded: {first_line}")
