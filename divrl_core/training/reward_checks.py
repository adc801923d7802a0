"""What of the reward can be known to be wrong before a model loads."""

from __future__ import annotations

from collections.abc import Callable

from ..config import RewardConfig
from ..models.features.efficientnet_lite import LITE2, weights_path
from .own_reward import OwnReward
from .remote_reward import RemoteReward
from .reward_device import usable_device


def reward_problems(config: RewardConfig) -> list[str]:
    """What keeps the reward from being used, a line each: device, backbone, function, server (which is asked)."""
    problems: list[str] = []

    def check(attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))

    device, function = config.device, config.function
    if device is not None:
        check(lambda: usable_device(device))
    if config.backbone.name == "lite2":
        check(lambda: weights_path(LITE2))
    if function is not None:
        check(lambda: OwnReward.load(function))
    if config.kind == "remote":
        check(lambda: RemoteReward.connect(config.remote, takes_groups=config.function_takes == "group"))
    return problems
