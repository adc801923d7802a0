"""Small benchmarks on disk, of every layout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.base import Benchmark, PictureName, Question
from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.training.references import DataProblems, prompt_pairs

NINE = tuple(f"a kitten, number {number}" for number in range(9))
COLLECTIONS = {
    "live_subject/animal/00": "kitten",
    "live_subject/animal/01": "Cotton-top Tamarin",
    "live_subject/human/00": "old man",
    "object/00": "piggy bank",
    "style/00": "ukiyo-e",
}


def picture(path: Path, *, seed: int = 0, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def mask(path: Path, *, size: tuple[int, int] = (20, 16)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[4:12, 4:12] = 255
    Image.fromarray(values).save(path)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def dreambench(folder: Path, collections: Mapping[str, str] = COLLECTIONS) -> Path:
    """The folder as DreamBench++'s archive unpacks, below its `data`."""
    for seed, (place, subject) in enumerate(collections.items()):
        picture(folder / "data" / "images" / f"{place}.jpg", seed=seed)
        text(folder / "data" / "captions" / f"{place}.txt", subject, *NINE)
    return folder


def plain(folder: Path, captions: Mapping[str, Sequence[str]]) -> Path:
    for seed, (name, prompts) in enumerate(captions.items()):
        picture(folder / f"{name}.png", seed=seed)
        text(folder / f"{name}.txt", *prompts)
    return folder


def json_list(path: Path, entries: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def finished(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        picture(folder / name, seed=seed)
    return folder


def problems_of(spec: Path, **options: int) -> list[str]:
    """What opening a benchmark says is wrong, without the path up to its folder."""
    with pytest.raises(DataProblems) as raised:
        open_benchmark(str(spec), **options)
    root = spec if spec.is_dir() else spec.parent
    return [line.replace(f"{root}/", "") for line in raised.value.lines]


def asked(benchmark: Benchmark) -> list[tuple[str, int, str]]:
    return [(one.reference_id, one.number, one.pair.prompt) for one in benchmark.questions]


def questions_of(prompts: Mapping[str, int]) -> tuple[Question, ...]:
    """So many prompts of each reference."""
    return tuple(
        Question(pair=pair, number=number)
        for reference_id, count in prompts.items()
        for number, pair in enumerate(prompt_pairs(reference_id, [f"prompt {n}" for n in range(count)]))
    )


def name(reference_id: str, number: int, k: int) -> PictureName:
    return PictureName(reference_id=reference_id, number=number, k=k)
