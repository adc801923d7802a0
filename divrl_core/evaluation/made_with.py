"""What a result follows from, as one hash: settings by their dotted names, and the files of the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..training.files import json_ready

TRAINED_FROM_IT = (
    "loras"  # a folder of LoRAs beside the model's own files, which nothing made with the model reads
)


def hashed(parts: Mapping[str, Any]) -> dict[str, Any]:
    """{"hash": SHA-256 of all parts in the order of their names, "parts": the parts as JSON gives them back}."""
    ready = json_ready(dict(parts))
    return {"hash": hashlib.sha256(json.dumps(ready, sort_keys=True).encode()).hexdigest(), "parts": ready}


def follows_alike(before: Mapping[str, Any], now: Mapping[str, Any], formerly: Mapping[str, Any]) -> bool:
    """Whether a result made with the parts `before` would be made the same `now`.

    A setting that did not exist then counts as what was done `formerly`, by the end of its dotted name
    (explore.grpo.kl_weight and linear-0.2.grpo.kl_weight: grpo.kl_weight).
    """

    def without(name: str) -> Any:
        while name and name not in formerly:
            name = name.partition(".")[2]
        return json_ready({"": formerly.get(name)})[""]

    def value(parts: Mapping[str, Any], name: str) -> Any:
        return parts[name] if name in parts else without(name)

    before = {
        name: value for name, value in before.items() if not name.startswith(f"model/{TRAINED_FROM_IT}/")
    }
    return set(before) <= set(now) and all(value(before, name) == value(now, name) for name in now)


def model_hashes(model: Path) -> dict[str, str]:
    """The SHA-256 of every file of a pipeline's folder but LoRAs in it, by "model/" and its name in it."""
    return {
        f"model/{file.relative_to(model).as_posix()}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path for path in model.rglob("*") if path.is_file())
        if file.relative_to(model).parts[0] != TRAINED_FROM_IT
    }
