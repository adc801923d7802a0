"""Whether a folder is a whole FLUX pipeline, seen from its files: nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..models.model_names import PIPELINES
from ..models.tensor_headers import length_by_header

COMPONENTS = (
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "scheduler",
)
WITH_WEIGHTS = ("transformer", "vae", "text_encoder", "text_encoder_2")


def pipeline_problems(folder: Path, *, needs_transformer: bool = True) -> list[str]:
    """What keeps the folder from being a FLUX pipeline as diffusers saves it, a line each.

    `needs_transformer`: whether the transformer's weights must be there too, not its config.json alone.
    Checks the class, the components, and that every weight file is there and as long as its header says.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        return [
            f"{folder}: no {index.name}: needs a FLUX pipeline in diffusers' layout, a folder with "
            f"{index.name} and {', '.join(COMPONENTS)}"
        ]
    content = _read_json(index)
    if not isinstance(content, dict):
        return [f"{index}: not a JSON object; get the model again"]
    if content.get("_class_name") not in PIPELINES:
        return [f"{index}: needs a {' or '.join(PIPELINES)}, got {content.get('_class_name')}"]
    problems = []
    for name in COMPONENTS:
        if not (folder / name).is_dir():
            problems.append(f"{folder / name}: this part of the pipeline is missing; get the model again")
        elif name == "transformer" and not needs_transformer:
            problems += _config_problems(folder / name)
        elif name in WITH_WEIGHTS:
            problems += _weight_problems(folder / name)
    return problems


def _weight_problems(folder: Path) -> list[str]:
    problems = []
    wanted: set[Path] = set()
    for index in folder.glob("*.safetensors.index.json"):
        content = _read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict):
            problems.append(f"{index}: not an index of weight files; get the model again")
            continue
        wanted |= {folder / str(name) for name in weight_map.values()}
    files = set(folder.glob("*.safetensors"))
    problems += [
        f"{path}: this weight file is missing; get the model again" for path in sorted(wanted - files)
    ]
    if not files | wanted:
        pickles = " (.bin files are pickles and are not read)" if any(folder.glob("*.bin")) else ""
        problems.append(f"{folder}: no weights (*.safetensors) in it{pickles}; get the model again")
    for path in sorted(files):
        needed, found = length_by_header(path), path.stat().st_size
        if needed is None:
            problems.append(f"{path}: not a safetensors file; get it again")
        elif needed != found:
            problems.append(f"{path}: needs {needed} bytes by its header, got {found}; get it again")
    return problems


def _config_problems(folder: Path) -> list[str]:
    path = folder / "config.json"
    if isinstance(_read_json(path), dict):
        return []
    return [f"{path}: needed beside model.transformer_file, and not readable as a JSON object; get it again"]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
