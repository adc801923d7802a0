"""A running ComfyUI for the tests of this folder; one for each worker of pytest-xdist that asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .install import ComfyUI, ComfyUIUnavailable, ensure_comfyui
from .server import Server


@pytest.fixture(scope="session")
def installed_comfyui() -> ComfyUI:
    """The installed ComfyUI; without a download the tests are skipped, and on CI they fail."""
    try:
        return ensure_comfyui()
    except ComfyUIUnavailable as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def comfy_python(installed_comfyui: ComfyUI) -> Path:
    """The interpreter of ComfyUI's environment."""
    return installed_comfyui.python


@pytest.fixture(scope="session")
def comfyui(installed_comfyui: ComfyUI, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A running server that has this repository as its custom node pack, and small models for the tests."""
    base = tmp_path_factory.mktemp("comfyui")
    small_models = base / "custom_nodes" / "small_models"
    small_models.parent.mkdir()
    small_models.symlink_to(Path(__file__).with_name("small_models"), target_is_directory=True)
    with Server(installed_comfyui, base, arguments=("--preview-method", "latent2rgb")) as server:
        yield server
