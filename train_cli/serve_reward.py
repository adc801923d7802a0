"""divrl-train serve-reward: the reward on a second machine."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import click

from divrl_core.config import RewardConfig, TrainConfig, apply_overrides, from_mapping
from divrl_core.settings import Settings, setting

from .config_file import load_yaml, parse_value, to_yaml
from .options import flag, number, path, text
from .processes import INTERRUPTED
from .settings_options import set_option


@dataclass(frozen=True, kw_only=True)
class ServedSettings(Settings):
    """What a reward server is told."""

    section: ClassVar[str] = ""

    reward: RewardConfig = setting(RewardConfig(), "The reward.")


@click.command("serve-reward", short_help="Give rewards to runs on other machines, over HTTP.")
@path(
    "--config",
    "config_file",
    metavar="FILE",
    absent="the reward nssm",
    help="YAML file with a section reward; a run's whole settings.yaml will do.",
)
@set_option("reward.kind=gated")
@text("--host", metavar="ADDRESS", default="127.0.0.1", help="Where to listen; 0.0.0.0 = on every network.")
@number(
    "--port",
    metavar="NUMBER",
    kind=click.IntRange(min=0, max=65535),
    default=8700,
    help="The port; 0 = any that is free.",
)
@text(
    "--device",
    metavar="DEVICE",
    absent="reward.device, else a GPU if there is one",
    help="Where the reward is computed.",
)
@flag("--dry-run", "Check and print the settings; load nothing and listen to nobody.")
def serve_reward(
    config_file: Path | None,
    overrides: tuple[str, ...],
    host: str,
    port: int,
    device: str | None,
    dry_run: bool,
) -> None:
    """Serve a reward until Ctrl-C, for runs with reward.kind=remote.

    No password, no encryption: for a network of your own, or through an SSH tunnel. docs/rewards.md has the protocol.

    \b
    Here:               divrl-train serve-reward --host 0.0.0.0 --set reward.kind=gated
    Where the run is:   divrl-train explore --set reward.kind=remote \\
                            --set reward.remote.url=http://THIS-MACHINE:8700
    """
    config = served_reward(config_file, overrides)

    from divrl_core.training.reward_server import check_served, open_server, serving_device

    where = serving_device(config, device)
    check_served(config)
    if dry_run:
        click.echo(to_yaml(ServedSettings(reward=config)) + f"\n# would listen at {host}:{port}, on {where}")
        return
    server = open_server(config, host=host, port=port, device=where)
    click.echo(f"{server.greeting.name} ({server.greeting.source}) on {where}")
    click.echo(f"listening at {server.url}; Ctrl-C ends it")
    with suppress(KeyboardInterrupt):
        server.serve_forever()
    try:
        server.server_close()
    except (
        KeyboardInterrupt
    ):  # a second Ctrl-C: a thread within torch can be left by the end of the process alone
        click.echo("ended; what was being scored is not answered", err=True)
        os._exit(INTERRUPTED)
    click.echo("ended", err=True)


def served_reward(config_file: Path | None, overrides: Sequence[str]) -> RewardConfig:
    """The reward of a YAML file and --set; the other sections of a run's settings say nothing here."""
    from_file = load_yaml(config_file) if config_file else {}
    others = {name for name in TrainConfig.__dataclass_fields__ if name != "reward"}
    stage: Mapping[str, Any] = TrainConfig.completed(from_file)
    mapping = {name: section for name, section in stage.items() if name not in others}
    mapping = apply_overrides(mapping, overrides, parse=parse_value)
    return from_mapping(ServedSettings, mapping, str(config_file or "settings")).reward
