"""The folders that the pack adds to ComfyUI's lists of models."""

from __future__ import annotations

from pathlib import Path

import folder_paths

REWARDS = "divrl_rewards"
SEGMENTATION = "divrl_segmentation"
REWARD_SUFFIXES = (".safetensors", ".pth")
POCKET_LORAS = Path(__file__).resolve().parent.parent / "divrl_core" / "pocket" / "weights" / "loras"


def register_folders() -> None:
    """`models/divrl_rewards` for backbones, `models/divrl_segmentation`; the pocket's LoRAs beside the user's."""
    for name in (REWARDS, SEGMENTATION):
        folder_paths.add_model_folder_path(name, str(Path(folder_paths.models_dir) / name))
    folder_paths.add_model_folder_path("loras", str(POCKET_LORAS))


def reward_files() -> list[str]:
    """The backbones that the user has put there, by name."""
    names = folder_paths.get_filename_list(REWARDS)
    return [name for name in names if name.lower().endswith(REWARD_SUFFIXES)]


def segmentation_models() -> list[str]:
    """The segmentation models that the user has put there: .onnx files, and folders with a config.json, by name."""
    names = [name.replace("\\", "/") for name in folder_paths.get_filename_list(SEGMENTATION)]
    folders = [name.removesuffix("/config.json") for name in names if name.endswith("/config.json")]
    return sorted([name for name in names if name.lower().endswith(".onnx")] + folders)
