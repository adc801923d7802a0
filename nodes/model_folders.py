"""The folders that the pack adds to ComfyUI's lists of models."""

from __future__ import annotations

from pathlib import Path

import folder_paths

REWARDS = "divrl_rewards"
REWARD_SUFFIXES = (".safetensors", ".pth")
POCKET_LORAS = Path(__file__).resolve().parent.parent / "divrl_core" / "pocket" / "weights" / "loras"


def register_folders() -> None:
    """`models/divrl_rewards` for backbones; the pocket's own LoRAs beside the user's, for the stock loader."""
    folder_paths.add_model_folder_path(REWARDS, str(Path(folder_paths.models_dir) / REWARDS))
    folder_paths.add_model_folder_path("loras", str(POCKET_LORAS))


def reward_files() -> list[str]:
    """The backbones that the user has put there, by name."""
    names = folder_paths.get_filename_list(REWARDS)
    return [name for name in names if name.lower().endswith(REWARD_SUFFIXES)]
