"""What of the reward can be known to be wrong before a model loads."""

from __future__ import annotations

from collections.abc import Callable

from ..config import RewardConfig
from .backbone_checks import backbone_problems
from .own_reward import OwnReward
from .remote_reward import RemoteReward
from .reward_device import usable_device


def reward_problems(config: RewardConfig) -> list[str]:
    """What keeps the reward from being used, a line each: device, backbones, function, server (which is asked)."""
    problems: list[str] = []

    def check(attempt: Callable[[], object]) -> None:
        try:
            attempt()
        except (ValueError, FileNotFoundError) as error:
            problems.append(str(error))

    device, function = config.device, config.function
    if device is not None:
        check(lambda: usable_device(device))
    for backbone in (config.backbone, config.second_backbone, config.held_out_backbone):
        problems += backbone_problems(backbone)
    if function is not None:
        check(lambda: OwnReward.load(function))
    if config.kind == "remote":
        check(lambda: RemoteReward.connect(config.remote, takes_groups=config.function_takes == "group"))
    return problems
