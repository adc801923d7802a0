"""The example workflows: found by the template browser, both formats alike, the pocket ones run."""

from __future__ import annotations

import io
import json
import shutil
from typing import Any

import pytest
from PIL import Image

from .server import PACK, REPOSITORY, Server, Workflow, WorkflowRefused, tracebacks

FOLDER = REPOSITORY / "workflows"
CANVAS = sorted(path.stem for path in FOLDER.glob("*.json"))
POCKET = [name for name in CANVAS if name.startswith("pocket-")]
FULL_SIZE = [name for name in CANVAS if name not in POCKET]
PICTURES = "divrl-pocket"  # the folder of finished pictures, in ComfyUI's input
NOTES = ("Note", "MarkdownNote")
CONTROLS = ("fixed", "increment", "decrement", "randomize")


def api(name: str) -> Workflow:
    """A workflow in API format."""
    return json.loads((FOLDER / "api" / f"{name}.json").read_text("utf-8"))


def from_canvas(server: Server, name: str) -> Workflow:
    """The API format of a canvas: links by their numbers, widgets in the order of the node's form."""
    canvas = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    links = {link[0]: [str(link[1]), link[2]] for link in canvas["links"]}
    found = {}
    for node in canvas["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs = dict(widgets_of(server, node))
        for socket in node.get("inputs", []):
            if socket.get("link") is not None:
                inputs[socket["name"]] = links[socket["link"]]
        found[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return found


def widgets_of(server: Server, node: dict[str, Any]) -> list[tuple[str, Any]]:
    """The values of a node's widgets by name; a seed's second widget, which only the page has, is left out."""
    sections = server.object_info(node["type"])["input"]
    values, found, uploads = list(node.get("widgets_values", [])), [], 0
    for name, spec in (*sections.get("required", {}).items(), *sections.get("optional", {}).items()):
        kind, options = spec[0], spec[1] if len(spec) > 1 else {}
        is_widget = isinstance(kind, list) or kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
        if not is_widget or options.get("forceInput"):
            continue
        found.append((name, values.pop(0)))
        if options.get("control_after_generate") and values and values[0] in CONTROLS:
            values.pop(0)
        uploads += bool(options.get("image_upload"))
    del values[:uploads]  # the buttons come last
    assert values == [], f"{node['type']}: {values} belong to no widget"
    return found


def without_titles(workflow: Workflow) -> Workflow:
    return {
        key: {"class_type": node["class_type"], "inputs": node["inputs"]} for key, node in workflow.items()
    }


def test_there_are_four_and_each_has_a_pocket_version() -> None:
    assert len(FULL_SIZE) == 4
    assert [f"pocket-{name}" for name in FULL_SIZE] == POCKET
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == CANVAS


@pytest.mark.parametrize("name", CANVAS)
def test_both_formats_hold_the_same_graph(comfyui: Server, name: str) -> None:
    assert from_canvas(comfyui, name) == without_titles(api(name))


@pytest.mark.parametrize("name", CANVAS)
def test_the_template_browser_finds_it_with_its_picture(comfyui: Server, name: str) -> None:
    assert name in comfyui.templates()[PACK]
    content = comfyui.page(f"/api/workflow_templates/{PACK}/{name}.jpg")
    picture = Image.open(io.BytesIO(content))
    assert min(picture.size) >= 256


@pytest.mark.parametrize("name", CANVAS)
def test_a_note_says_what_it_does(name: str) -> None:
    canvas = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    notes = [node["widgets_values"][0] for node in canvas["nodes"] if node["type"] in NOTES]
    assert notes and all(len(note) > 80 for note in notes)


def test_nothing_in_the_files_is_of_this_machine() -> None:
    for path in FOLDER.rglob("*.json"):
        text = path.read_text("utf-8")
        assert "/root" not in text and "/work" not in text and "/tmp" not in text, path


@pytest.mark.parametrize("name", POCKET)
def test_a_pocket_workflow_runs_through(comfyui: Server, name: str) -> None:
    folder = comfyui.base / "input" / PICTURES
    if not folder.is_dir():
        shutil.copytree(FOLDER / "pocket-pictures", folder)
    before = len(comfyui.log())
    outputs = comfyui.run(api(name), timeout=300)
    shown = [entry for output in outputs.values() for entry in output.get("images", [])]
    assert shown
    for entry in shown:
        Image.open(io.BytesIO(comfyui.file(entry))).load()
    log = comfyui.log()[before:]
    assert "lora key not loaded" not in log
    assert "ERROR lora" not in log
    assert [text for text in tracebacks(log) if PACK in text] == []


@pytest.mark.parametrize("name", FULL_SIZE)
def test_a_full_size_workflow_only_wants_its_files(comfyui: Server, name: str) -> None:
    """Refused for lack of models and pictures alone: every node, link and value is one that the server knows."""
    with pytest.raises(WorkflowRefused) as refused:
        comfyui.post(api(name))
    details = refused.value.details
    errors = [error for node in details["node_errors"].values() for error in node["errors"]]
    assert errors
    for error in errors:
        is_file = error["type"] == "value_not_in_list" or "Invalid image file" in str(error)
        assert is_file or "Invalid folder" in str(error), error
