"""Folders of pairs for tests: noise pictures a few pixels wide, captions, rows; and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from divrl_core.config_cfm import CfmDataConfig
from divrl_core.training.pair_data import open_pairs
from divrl_core.training.references import DataProblems


def pixels(seed: int, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    """Noise (height, width, 3); `size` is (width, height)."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def picture(path: Path, seed: int, size: tuple[int, int] = (12, 10), caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def pair_folders(root: Path, count: int) -> Path:
    for place in range(count):
        picture(root / "target" / f"toy-{place}.png", 2 * place, caption=f"toy {place}\n")
        picture(root / "reference" / f"toy-{place}.png", 2 * place + 1)
    return root


def write_rows(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def problems_of(source: Path, **settings: Any) -> list[str]:
    with pytest.raises(DataProblems) as caught:
        open_pairs(CfmDataConfig(source=str(source), **settings))
    return [line.replace(f"{source}/", "") for line in caught.value.lines]
