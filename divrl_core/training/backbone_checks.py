"""What of a reward backbone can be known to be wrong before anything loads."""

from __future__ import annotations

from pathlib import Path

from ..config import BackboneConfig
from ..models.features.base import backbone_class
from ..models.features.efficientnet_lite import LITE2, weights_path
from ..models.features.mtg_files import mtg_problems
from ..models.features.vision_files import KINDS, check_folder, check_path, open_files


def backbone_problems(config: BackboneConfig, *, downloads: bool = False) -> list[str]:
    """What keeps the backbone from being loaded, a line each; none where no backbone is named.

    A folder is checked file by file. Of a hub id nothing is known yet, unless `downloads`: then it is fetched now.
    """
    if config.name is None:  # a second or held-out one that is not wanted
        return []
    if config.name == "mtg":
        return mtg_problems(config)
    try:
        if config.name == "lite2":
            weights_path(LITE2)
        elif downloads and (path := _published(config)) is not None:
            open_files(config.name, path, config.revision)
        elif config.path is not None:
            check_path(config.name, config.path)
            folder = Path(config.path).expanduser()
            if config.name in KINDS and folder.is_dir():
                check_folder(config.name, folder)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    return []


def _published(config: BackboneConfig) -> str | None:
    """The folder or hub id of a backbone of transformers, its own where none is named; None of other backbones."""
    found: str | None = getattr(backbone_class(config), "default_path", None)
    return (config.path or found) if config.name in KINDS else None


def check_backbone(config: BackboneConfig) -> None:
    """Raise ValueError with all that keeps the backbone from being loaded, if anything does."""
    if problems := backbone_problems(config):
        raise ValueError("; ".join(problems))
