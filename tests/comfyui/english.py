"""Writes locales/en from the nodes' own forms: `python -m tests.comfyui.english`.

ComfyUI shows these texts in place of those in the code, so both must be the same; a test holds that they are.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from .install import ensure_comfyui
from .server import REPOSITORY, Server

ENGLISH = REPOSITORY / "locales" / "en" / "nodeDefs.json"


def english(server: Server) -> dict[str, Any]:
    """The texts of every node of the pack, in the layout of nodeDefs.json."""
    infos = {name: info for name, info in server.every_object_info().items() if name.startswith("DivRL_")}
    return {name: texts_of(info) for name, info in sorted(infos.items())}


def texts_of(info: dict[str, Any]) -> dict[str, Any]:
    """Display name, description, inputs by id and outputs by number of one node."""
    sections = [info["input"].get(kind, {}) for kind in ("required", "optional")]
    inputs = {name: spec[1] for section in sections for name, spec in section.items()}
    outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, options in inputs.items()},
        "outputs": {
            str(number): {"name": name, "tooltip": tip} for number, (name, tip) in enumerate(outputs)
        },
    }


def main() -> None:
    """Starts a server and writes the file."""
    with tempfile.TemporaryDirectory() as base, Server(ensure_comfyui(), Path(base)) as server:
        texts = english(server)
    ENGLISH.write_text(json.dumps(texts, indent=2, ensure_ascii=False) + "\n", "utf-8")
    sys.stdout.write(f"wrote {ENGLISH.relative_to(REPOSITORY)}\n")


if __name__ == "__main__":
    main()
