"""Hugging Face datasets as references, from local files."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from divrl_core.config import DataConfig
from divrl_core.models.model_names import is_hub_id
from divrl_core.training.data import DataProblems, open_data
from divrl_core.training.hub_data import is_dataset, read_dataset
from divrl_core.training.picture_references import PictureReferences, check_sources

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8))


def mask() -> Image.Image:
    values = np.zeros((20, 20), dtype=np.uint8)
    values[5:10, 5:15] = 255
    return Image.fromarray(values)


def dataset(count: int = 4, **columns: Any) -> Any:
    """Pictures with masks (none in row 1) and captions as lines, like the public SynCD subset."""
    content = {
        "image": [picture(seed) for seed in range(count)],
        "mask": [None if row == 1 else mask() for row in range(count)],
        "captions": [f"a toy\na toy in room {row}" for row in range(count)],
        **columns,
    }
    made = datasets.Dataset.from_dict(
        {name: values for name, values in content.items() if values is not None}
    )
    for name in {"image", "mask"} & set(made.column_names) - set(columns):
        made = made.cast_column(name, datasets.Image())
    return made


def parquet(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    content.to_parquet(str(path))
    return str(path)


def problems_of(source: str, **settings: Any) -> list[str]:
    sources, problems = read_dataset(source, DataConfig(source=source, **settings))
    return problems + check_sources(sources)[1]


def test_rows_of_a_parquet_file_become_references(tmp_path: Path) -> None:
    source = parquet(tmp_path / "train.parquet", dataset())
    sources, problems = read_dataset(source, DataConfig(source=source))
    checked, picture_problems = check_sources(sources)
    assert not problems + picture_problems
    references = PictureReferences(checked)
    assert references.mask_source == "3 files, 1 whole picture"
    assert [(pair.group_id, pair.prompt) for pair in references.pairs][2:4] == [
        ("row-000001#0", "a toy"),
        ("row-000001#1", "a toy in room 1"),
    ]
    loaded = references.load("row-000002", 20)
    assert np.array_equal((loaded.image.permute(1, 2, 0).numpy() * 255).round(), np.array(picture(2)))
    assert int(loaded.mask.sum()) == 50


def test_folders_of_parquet_and_saved_datasets_open_the_same(tmp_path: Path) -> None:
    content = dataset(captions=[["a toy", "a toy outdoors"]] * 4, id=["fox", "owl", "cat", "dog"])
    parquet(tmp_path / "parquet" / "train.parquet", content)
    content.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": content}).save_to_disk(str(tmp_path / "splits"))
    found = []
    for name in ("parquet", "saved", "splits"):
        data = open_data(DataConfig(source=str(tmp_path / name), held_out_references=1))
        found.append((data.train.pairs, data.held_out.pairs))
    assert found[0] == found[1] == found[2]
    assert {pair.reference_id for side in found[0] for pair in side} == {"fox", "owl", "cat", "dog"}


def test_a_missing_column_names_those_present_and_the_nearest(tmp_path: Path) -> None:
    source = parquet(
        tmp_path / "train.parquet", dataset().rename_columns({"captions": "caption", "mask": "masks"})
    )
    found = problems_of(source)
    assert any(
        "no column 'captions'; it has image, masks, caption; set data.caption_column (to caption?)" in line
        for line in found
    )
    assert any("set data.mask_column (to masks?), or to null for no masks" in line for line in found)
    assert len(found) == 2
    assert not problems_of(source, caption_column="caption", mask_column=None)


def test_a_column_that_holds_no_pictures_is_refused(tmp_path: Path) -> None:
    source = parquet(tmp_path / "train.parquet", dataset(image=["/etc/hostname"] * 4))
    (problem,) = problems_of(source)
    assert "column 'image' (data.image_column) must hold pictures" in problem


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    content = dataset(5, captions=["fine", "", None, "one\n\ntwo", "fine"])
    rows = content.cast_column("image", datasets.Image(decode=False)).to_list()
    rows[4]["image"]["bytes"] = rows[4]["image"]["bytes"][:200]
    rows[0]["mask"] = None
    rows[3]["image"] = {"bytes": None, "path": "/etc/hostname"}
    broken = datasets.Dataset.from_list(rows, features=content.features)
    source = parquet(tmp_path / "train.parquet", broken)
    found = problems_of(source, mask_column=None)
    for row, column, text in (
        (1, "captions", "the caption is empty"),
        (2, "captions", "no caption"),
        (3, "captions", "line 2 of the caption is empty"),
        (3, "image", "points outside the dataset"),
        (4, "image", "truncated"),
    ):
        assert any(f"row {row}, column {column!r}: " in line and text in line for line in found), (row, found)
    assert len(found) == 5


def test_a_missing_split_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"validation": dataset()}).save_to_disk(str(tmp_path))
    with pytest.raises(DataProblems, match=r"no split 'train'; it has validation; set data.split"):
        open_data(DataConfig(source=str(tmp_path)))


def test_a_dataset_that_cannot_be_reached_is_one_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataProblems, match="there is no folder 'nobody/nothing' here, and the dataset"):
        open_data(DataConfig(source="nobody/nothing"))


def test_without_the_package_datasets_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_import = builtins.__import__

    def without_datasets(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(DataProblems, match=r'pip install "divrl\[datasets\]"'):
        open_data(DataConfig(source="owner/name"))


def test_folders_of_pictures_and_datasets_are_told_apart(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "fox.png")
    assert not is_dataset(str(tmp_path)) and is_dataset("owner/name")
    assert not any(
        is_hub_id(name) for name in ("photos", "./a/b", "/a/b", "~/photos", "a/b/c", "../photos", "a\\b")
    )
