"""What of a reward backbone can be known to be wrong before anything loads."""

from __future__ import annotations

from pathlib import Path

from ..config import BackboneConfig
from ..models.features.efficientnet_lite import LITE2, weights_path
from ..models.features.mtg_files import mtg_problems
from ..models.features.vision_files import KINDS, check_folder, check_path


def backbone_problems(config: BackboneConfig) -> list[str]:
    """What keeps the backbone from being loaded, a line each; none where no backbone is named.

    Nothing is downloaded: of a hub id nothing is known yet. A folder is checked file by file.
    """
    if config.name is None:  # a second or held-out one that is not wanted
        return []
    if config.name == "mtg":
        return mtg_problems(config)
    try:
        if config.name == "lite2":
            weights_path(LITE2)
        elif config.path is not None:
            check_path(config.name, config.path)
            folder = Path(config.path).expanduser()
            if config.name in KINDS and folder.is_dir():
                check_folder(config.name, folder)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    return []


def check_backbone(config: BackboneConfig) -> None:
    """Raise ValueError with all that keeps the backbone from being loaded, if anything does."""
    if problems := backbone_problems(config):
        raise ValueError("; ".join(problems))
