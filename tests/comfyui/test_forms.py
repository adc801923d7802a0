"""Every node's form: tooltips, help, names; and what the pack costs ComfyUI when it starts."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from .english import ENGLISH, english
from .server import REPOSITORY, Server

NODES = (
    "DivRL_LoadRewardBackbone",
    "DivRL_ScoreImages",
    "DivRL_StructureAndIdentityMaps",
    "DivRL_WidthReference",
    "DivRL_WidthReferenceFromImage",
    "DivRL_GatedBestOfN",
    "DivRL_LoadPocketKontext",
    "DivRL_SegmentSubject",
)
LOCALES = sorted(path.parent.name for path in (REPOSITORY / "locales").glob("*/nodeDefs.json"))


def inputs_of(server: Server, node_id: str) -> dict[str, dict[str, object]]:
    sections = server.object_info(node_id)["input"]
    shown = [sections.get(kind, {}) for kind in ("required", "optional")]
    return {name: spec[1] for section in shown for name, spec in section.items()}


@pytest.mark.parametrize("node_id", NODES)
def test_a_form_explains_itself(comfyui: Server, node_id: str) -> None:
    info = comfyui.object_info(node_id)
    assert info["category"] == "DivRL"
    assert info["display_name"] and info["description"] and info["search_aliases"]
    for name, options in inputs_of(comfyui, node_id).items():
        assert options.get("tooltip"), f"{node_id}.{name} has no tooltip"
    assert all(info["output_tooltips"]), info["output_name"]


@pytest.mark.parametrize("node_id", NODES)
def test_a_help_page_with_a_picture_names_every_input(comfyui: Server, node_id: str) -> None:
    page = REPOSITORY / "web" / "docs" / f"{node_id}.md"
    text = page.read_text("utf-8")
    for name in inputs_of(comfyui, node_id):
        assert f"`{name}`" in text, f"{page.name} does not explain {name}"
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures, f"{page.name} shows nothing"
    for picture in pictures:
        content = comfyui.page(f"/extensions/ComfyUI-DivRL/docs/{picture}")
        assert content[:3] in (b"\xff\xd8\xff", b"\x89PN"), picture
    assert comfyui.page(f"/extensions/ComfyUI-DivRL/docs/{node_id}.md").decode("utf-8") == text


def test_rarely_used_inputs_are_advanced(comfyui: Server) -> None:
    advanced = {
        name for name, options in inputs_of(comfyui, "DivRL_GatedBestOfN").items() if options.get("advanced")
    }
    assert advanced == {
        "penalty", "pruning_plan", "foreseen_by", "micro_batch", "tau_s", "tau_v", "pooling"
    }  # fmt: skip


@pytest.mark.parametrize("locale", LOCALES)
def test_a_translation_knows_the_nodes_and_inputs_that_there_are(comfyui: Server, locale: str) -> None:
    texts = json.loads((REPOSITORY / "locales" / locale / "nodeDefs.json").read_text("utf-8"))
    assert set(texts) == set(NODES)
    for node_id, words in texts.items():
        assert words["display_name"] and words["description"]
        assert set(words["inputs"]) == set(inputs_of(comfyui, node_id)), f"{locale}: {node_id}"
        assert all(entry["name"] for entry in words["inputs"].values())


def test_english_is_what_the_forms_say(comfyui: Server) -> None:
    written = json.loads(ENGLISH.read_text("utf-8"))
    assert written == english(comfyui), "run: python -m tests.comfyui.english, and translate what changed"


def test_there_are_translations() -> None:
    assert "en" in LOCALES and len(LOCALES) > 1


def test_nothing_heavy_is_imported_when_comfyui_starts(comfyui: Server, comfy_python: Path) -> None:
    """The pack is imported as ComfyUI does it; what came with it is listed."""
    script = f"""
import sys; sys.argv = ["main.py", "--cpu"]; sys.path.insert(0, {str(comfyui.comfyui.root)!r})
import comfy.options; comfy.options.enable_args_parsing()
import asyncio, importlib.util
import nodes, comfy_extras.nodes_custom_sampler, comfy.clip_vision, latent_preview
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", {str(REPOSITORY / "__init__.py")!r},
                                              submodule_search_locations=[{str(REPOSITORY)!r}])
pack = importlib.util.module_from_spec(spec); sys.modules["pack"] = pack; spec.loader.exec_module(pack)
made = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
[one.GET_SCHEMA() for one in made]
print("NEW", len(made), *sorted({{name.split(".")[0] for name in set(sys.modules) - before}}))
print("OURS", *sorted(name for name in sys.modules if name.startswith("pack.divrl_core")))
"""
    told = subprocess.run(
        [str(comfy_python), "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=comfyui.comfyui.root,
    ).stdout
    new = re.search(r"^NEW (\d+) (.*)$", told, re.MULTILINE)
    assert new and int(new[1]) == len(NODES), told
    assert set(new[2].split()) <= {"pack"}, new[2]
    ours = re.search(r"^OURS ?(.*)$", told, re.MULTILINE)
    assert ours and ours[1] == ""
