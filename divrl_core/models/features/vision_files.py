"""Where a vision model of transformers lies, and whether its files are whole: its kind, its weights, its normalisation.

All is read from JSON and from headers of weights, before a weight is read and without transformers, so that a check
before a run can use it. Of a hub id the configuration comes first: a wrong model is refused before its weights are
downloaded. Code that lies beside a model is never run, nor a pickle read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import errors, hf_hub_download, snapshot_download, try_to_load_from_cache

from ..hub import hub_error, read_json
from ..model_names import is_hub_id
from ..tensor_headers import PICKLES, read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PROCESSORS = (
    "preprocessor_config.json",
    "processor_config.json",
)  # the second holds the first as image_processor
DOWNLOADED = (CONFIG, *PROCESSORS, WEIGHTS, INDEX, "model-*.safetensors")

KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dinov2": ("dinov2", "dinov2_with_registers"),
        "clip": ("clip", "clip_vision_model"),
        "siglip": ("siglip", "siglip_vision_model", "nearid"),
        "transformers": (),
    }
)
"""What `model_type` in config.json may say for each backbone; none = anything."""


@dataclass(frozen=True, kw_only=True)
class Purpose:
    """What a model is wanted for, in the words of errors.

    who: "backbone clip". kinds: what `model_type` may say; none = anything. named: how its folder is named, "set
    reward.backbone.path to its folder". instead: what to give where it is another kind's; None = the backbone that is
    for that kind. otherwise: what needs no network. more_files: what else is read, as patterns.
    """

    who: str
    kinds: tuple[str, ...]
    named: str = "set reward.backbone.path to its folder"
    instead: str | None = None
    otherwise: str = "the backbone lite0 needs no network"
    more_files: tuple[str, ...] = ()

    def hint(self, kind: object) -> str:
        """What to give in place of a model of another kind."""
        if self.instead is not None:
            return self.instead
        others = [name for name, kinds in KINDS.items() if kind in kinds]
        return f"take reward.backbone.name={others[0] if others else 'transformers'}"


def of_backbone(name: str) -> Purpose:
    """A reward backbone, by the name that chooses it."""
    return Purpose(who=f"backbone {name}", kinds=KINDS[name])


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What pictures in [0, 1] are put through: (picture - mean) / std, channel by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class VisionFiles:
    """A vision model's files.

    origin: the hub id or the folder's name, for figures. config: the content of config.json. folder: where they lie;
    None in a plan, which needs no weights. tensors: the names of the weights. normalisation: None where the files say
    nothing of it.
    """

    origin: str
    config: Mapping[str, Any]
    folder: Path | None = None
    tensors: frozenset[str] = frozenset()
    normalisation: Normalisation | None = None

    @property
    def vision(self) -> dict[str, Any]:
        """The vision model's part of the configuration: a model of pictures and texts holds it beside the other's."""
        found = self.config.get("vision_config", self.config)
        return dict(found) if isinstance(found, Mapping) else {}


def open_files(wanted: str | Purpose, path: str, revision: str | None = None) -> VisionFiles:
    """The files of a folder or a hub id, which is downloaded if need be. wanted: a backbone by its name, or a purpose.

    Raises FileNotFoundError when nothing is found or the hub cannot be reached, ValueError when it is no model for this
    purpose, is damaged, or holds no safetensors. One line each.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return check_folder(wanted, folder)
    check_path(wanted, path)
    return check_folder(wanted, _download(_purpose(wanted), path, revision), path)


def known_files(wanted: str | Purpose, path: str, *, downloads: bool) -> VisionFiles | None:
    """The files of a folder; of a hub id None, or with `downloads` what is fetched now. Raises as `open_files` does."""
    check_path(wanted, path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return check_folder(wanted, folder)
    return open_files(wanted, path) if downloads else None


def check_path(wanted: str | Purpose, path: str) -> None:
    """Raise FileNotFoundError or ValueError when there is no such folder and it cannot be a hub id."""
    folder, who = Path(path).expanduser(), _purpose(wanted).who
    if folder.is_dir():
        return
    if folder.exists():
        raise ValueError(f"{who}: {path} is a file; the folder that holds it is needed")
    if not is_hub_id(path):
        raise FileNotFoundError(f"{who}: no folder {path!r}, and not a hub id of the form owner/name")


def check_folder(wanted: str | Purpose, folder: Path, origin: str | None = None) -> VisionFiles:
    """The files of a local folder, each weight file as long as its header says. `origin`: the hub id it is of."""
    config = _read_config(_purpose(wanted), folder, origin)
    files = _weight_files(_purpose(wanted), folder, origin)
    return VisionFiles(
        origin=origin or folder.resolve().name,
        config=config,
        folder=folder,
        tensors=frozenset(name for file in files for name in read_header(file).tensors),
        normalisation=_normalisation(folder),
    )


def planned_files(
    backbone: str, path: str, revision: str | None, published: Mapping[str, Mapping[str, Any]]
) -> VisionFiles:
    """The configuration alone, for a plan: a folder's, a hub id's that is in the local cache, else a published one.

    Raises FileNotFoundError or ValueError when there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return VisionFiles(origin=folder.resolve().name, config=_read_config(_purpose(backbone), folder))
    check_path(backbone, path)
    cached = try_to_load_from_cache(path, CONFIG, revision=revision)
    if isinstance(cached, str):
        return VisionFiles(origin=path, config=_read_config(_purpose(backbone), Path(cached).parent, path))
    if path in published:
        return VisionFiles(origin=path, config=published[path])
    raise FileNotFoundError(
        f"backbone {backbone}: the sizes of {path} are not known here; download it, and plan with its folder as "
        "reward.backbone.path"
    )


def _normalisation(folder: Path) -> Normalisation | None:
    """What the folder's preprocessor_config.json (or processor_config.json) says; None where it says nothing.

    Raises ValueError for a mean or std that are not three numbers.
    """
    for name in PROCESSORS:
        if (folder / name).is_file():
            content = read_json(folder / name)
            content = content.get("image_processor", content)
            break
    else:
        return None
    if content.get("do_normalize") is False:
        return Normalisation(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    mean, std = content.get("image_mean"), content.get("image_std")
    if mean is None or std is None:
        return None
    # mean and std are of pixels 0 to 255 times rescale_factor, which is 1/255 but for a few.
    scale = 255 * content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 255
    if not (_are_three(mean) and _are_three(std) and min(std) > 0 and scale > 0):
        raise ValueError(
            f"{folder / name}: image_mean and image_std must be three numbers each, got {mean} and {std}"
        )
    first, second = (tuple(value / scale for value in values) for values in (mean, std))
    return Normalisation(mean=first, std=second)


def _are_three(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    )


def _purpose(wanted: str | Purpose) -> Purpose:
    return of_backbone(wanted) if isinstance(wanted, str) else wanted


def _read_config(wanted: Purpose, folder: Path, origin: str | None = None) -> dict[str, Any]:
    where = f"{wanted.who}: {origin or folder}"
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{where}: no {CONFIG} in it; give the folder that save_pretrained wrote")
    config = read_json(folder / CONFIG)
    kind = config.get("model_type")
    if wanted.kinds and kind not in wanted.kinds:
        raise ValueError(
            f"{where}: {' or '.join(wanted.kinds)} is needed, {CONFIG} says {kind}; {wanted.hint(kind)}"
        )
    return config


def _weight_files(wanted: Purpose, folder: Path, origin: str | None) -> list[Path]:
    """The files that from_pretrained will read. Raises FileNotFoundError or ValueError when they are not all there."""
    where = f"{wanted.who}: {origin or folder}"
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = read_json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{where}: {INDEX} is no index of weight files; get the model again")
        files = [folder / name for name in sorted(set(shards.values()))]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FileNotFoundError(f"{where}: the weight file {missing[0]} is missing; get the model again")
        return files
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{where}: its weights are a pickle ({pickles[0]}), which can run code when it is read; get the model as "
            f"{WEIGHTS}, or load it where you trust it and write it anew with save_pretrained"
        )
    if origin is not None:
        raise FileNotFoundError(
            f"{where}: no {WEIGHTS} came from the hub (pickles are not downloaded); go online if it was downloaded in "
            "part, take another revision, or give a folder that holds it"
        )
    raise FileNotFoundError(f"{where}: no {WEIGHTS} in it; give the folder that save_pretrained wrote")


def _download(wanted: Purpose, hub_id: str, revision: str | None) -> Path:
    """The local copy of a hub id: what from_pretrained reads and nothing beside it."""
    try:
        _read_config(wanted, Path(hf_hub_download(hub_id, CONFIG, revision=revision)).parent, hub_id)
        patterns = [*DOWNLOADED, *wanted.more_files]
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except (OSError, errors.HFValidationError) as error:  # the hub's errors are OSErrors
        raise hub_error(
            hub_id,
            revision,
            error,
            kind="a model of transformers",
            needed=CONFIG,
            licence="its page says what it allows",
            offline=f"go online, or download it elsewhere and {wanted.named}; {wanted.otherwise}",
        ) from error
