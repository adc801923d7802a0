"""What of the reward can be known to be wrong before a model loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..config import BackboneConfig, RewardConfig
from ..models.features.vision_files import KINDS, check_folder, check_path
from .own_reward import OwnReward
from .remote_reward import RemoteReward
from .reward_device import usable_device


def reward_problems(config: RewardConfig) -> list[str]:
    """What keeps the reward from being used, a line each: its device, its backbone's files, its function, its server.

    The server is asked.
    """
    problems: list[str] = []

    def check(attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))

    device, function = config.device, config.function
    if device is not None:
        check(lambda: usable_device(device))
    check(lambda: check_backbone(config.backbone))
    if function is not None:
        check(lambda: OwnReward.load(function))
    if config.kind == "remote":
        check(lambda: RemoteReward.connect(config.remote, takes_groups=config.function_takes == "group"))
    return problems


def check_backbone(config: BackboneConfig) -> None:
    """Raise FileNotFoundError or ValueError for a backbone whose files are known not to serve.

    Nothing is downloaded: of a hub id nothing is known yet. A vision model's folder is checked file by file.
    """
    if config.path is None:
        return
    check_path(config.name, config.path)
    folder = Path(config.path).expanduser()
    if config.name in KINDS and folder.is_dir():
        check_folder(config.name, folder)
