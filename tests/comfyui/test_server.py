"""The server of the other tests: it starts, imports this pack, runs workflows and says what is wrong."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .server import PACK, Server, WorkflowFailed, WorkflowRefused, import_seconds, tracebacks

TRAINER_ONLY = ("diffusers", "peft", "accelerate")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow in API format."""
    return {"class_type": class_type, "inputs": inputs}


def grey_picture(width: int = 24, output: str = "PreviewImage") -> dict[str, dict[str, Any]]:
    """A workflow of stock nodes that shows one grey picture."""
    return {
        "1": node("EmptyImage", width=width, height=16, batch_size=1, color=0x808080),
        "2": node(output, images=["1", 0]),
    }


def test_the_pack_is_imported_without_a_complaint(comfyui: Server) -> None:
    log = comfyui.log().partition("To see the GUI go to")[0]  # what came before the first workflow
    assert "Import times for custom nodes" in log
    complaints = ("IMPORT FAILED", "Cannot import", "Error while", "[ERROR]")
    said = [line for line in log.splitlines() if PACK in line and any(word in line for word in complaints)]
    assert "\n".join(said) == ""
    assert [text for text in tracebacks(log) if PACK in text] == []
    assert import_seconds(log, PACK) is not None


def test_the_time_of_import_is_read_from_the_log_and_a_failed_import_has_none() -> None:
    log = (
        "[INFO] \nImport times for custom nodes:\n"
        "[INFO]    0.0 seconds: /base/custom_nodes/other\n"
        "[INFO]    0.3 seconds: /base/custom_nodes/pack\n"
        "[INFO]    1.2 seconds (IMPORT FAILED): /base/custom_nodes/broken\n"
    )
    assert import_seconds(log, "pack") == 0.3
    assert import_seconds(log, "broken") is None
    assert import_seconds(log, "absent") is None


def test_a_traceback_is_read_from_the_log_with_its_exception() -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 1, in b\n    c()\nKeyError: 3'
    assert tracebacks(f"[WARNING] {text}\n\n[INFO] Starting server\n[ERROR] {text}\n") == [text, text]


def test_a_workflow_of_stock_nodes_runs_and_its_picture_comes_back(comfyui: Server) -> None:
    outputs = comfyui.run(grey_picture())
    (entry,) = outputs["2"]["images"]
    picture = Image.open(io.BytesIO(comfyui.file(entry)))
    assert picture.size == (24, 16)
    assert picture.getpixel((3, 3)) == (128, 128, 128)


def test_the_server_reads_and_writes_in_its_base_folder(comfyui: Server) -> None:
    Image.new("RGB", (8, 8), "red").save(comfyui.base / "input" / "red.png")
    workflow = {
        "1": node("LoadImage", image="red.png"),
        "2": node("SaveImage", images=["1", 0], filename_prefix="copy"),
    }
    (entry,) = comfyui.run(workflow)["2"]["images"]
    saved = Image.open(comfyui.base / "output" / entry["filename"])
    assert saved.getpixel((0, 0)) == (255, 0, 0)


def test_a_workflow_with_a_wrong_value_is_refused_with_the_servers_reason(comfyui: Server) -> None:
    with pytest.raises(WorkflowRefused) as refused:
        comfyui.run(grey_picture(width=0))
    (error,) = refused.value.details["node_errors"]["1"]["errors"]
    assert error["type"] == "value_smaller_than_min"
    with pytest.raises(WorkflowRefused, match="NoSuchNode"):
        comfyui.run(grey_picture(output="NoSuchNode"))


def test_a_node_that_raises_is_named_with_its_message(comfyui: Server) -> None:
    (comfyui.base / "input" / "broken.png").write_text("no picture")
    workflow = {
        "1": node("LoadImage", image="broken.png"),
        "2": node("PreviewImage", images=["1", 0]),
    }
    with pytest.raises(WorkflowFailed, match="LoadImage: ") as failed:
        comfyui.run(workflow)
    assert failed.value.node_type == "LoadImage"
    assert "cannot identify image file" in failed.value.message


def test_a_node_type_is_described(comfyui: Server) -> None:
    info = comfyui.object_info("EmptyImage")
    assert info["output"] == ["IMAGE"]
    with pytest.raises(KeyError):
        comfyui.object_info("NoSuchNode")


def test_the_trainers_libraries_are_not_in_comfyuis_environment(comfy_python: Path) -> None:
    code = (
        "import importlib.util\n"
        f"for name in {TRAINER_ONLY!r}:\n"
        "    assert importlib.util.find_spec(name) is None, name\n"
    )
    done = subprocess.run([str(comfy_python), "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
