"""Pairs in Hugging Face datasets, from local files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from divrl_core.config_cfm import CfmDataConfig
from divrl_core.training.pair_data import open_pairs
from divrl_core.training.references import DataProblems

from .pair_files import pixels

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def dataset(count: int = 5, **columns: Any) -> Any:
    """Row n has target 2 n, reference 2 n + 1 and two captions."""
    content = {
        "target": [Image.fromarray(pixels(2 * row)) for row in range(count)],
        "reference": [Image.fromarray(pixels(2 * row + 1)) for row in range(count)],
        "caption": [f"a toy\na toy in room {row}" for row in range(count)],
        **columns,
    }
    made = datasets.Dataset.from_dict(content)
    for name in ("target", "reference"):
        if name not in columns:
            made = made.cast_column(name, datasets.Image())
    return made


def parquet(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    content.to_parquet(str(path))
    return str(path)


def problems_of(source: str, **settings: Any) -> list[str]:
    with pytest.raises(DataProblems) as caught:
        open_pairs(CfmDataConfig(source=source, **settings))
    return list(caught.value.lines)


def test_rows_become_pairs_of_the_named_columns(tmp_path: Path) -> None:
    names = {"target": "after", "reference": "before", "caption": "text"}
    source = parquet(tmp_path / "train.parquet", dataset().rename_columns(names))
    settings = {f"{key}_column": name for key, name in names.items()}
    data = open_pairs(CfmDataConfig(source=source, **settings))
    sides = {pair.pair_id: (side, pair) for side in (data.train, data.held_out) for pair in side.pairs}
    assert sorted(sides) == [f"row-00000{row}" for row in range(5)] and len(data.held_out.pairs) == 1
    for row in range(5):
        side, pair = sides[f"row-00000{row}"]
        assert pair.captions == ("a toy", f"a toy in room {row}")
        for name, seed in ((pair.target_id, 2 * row), (pair.reference_id, 2 * row + 1)):
            loaded = (side.load(name).permute(1, 2, 0).numpy() * 255).round()
            assert np.array_equal(loaded, pixels(seed))
            facts = side.facts(name)
            assert (facts.height, facts.width) == loaded.shape[:2] == (10, 12)


def test_folders_of_parquet_and_saved_datasets_open_the_same(tmp_path: Path) -> None:
    content = dataset(caption=[["a toy", "a toy outdoors"]] * 5, id=["fox", "owl", "cat", "dog", "ant"])
    parquet(tmp_path / "parquet" / "train.parquet", content)
    content.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": content}).save_to_disk(str(tmp_path / "splits"))
    found = []
    for name in ("parquet", "saved", "splits"):
        data = open_pairs(CfmDataConfig(source=str(tmp_path / name)))
        found.append((data.train.pairs, data.held_out.pairs))
    assert found[0] == found[1] == found[2]
    assert {pair.pair_id for side in found[0] for pair in side} == {"fox", "owl", "cat", "dog", "ant"}


def test_missing_columns_name_those_present_and_the_nearest(tmp_path: Path) -> None:
    content = dataset().rename_columns({"target": "targets", "caption": "captions"})
    source = parquet(tmp_path / "train.parquet", content)
    assert problems_of(source) == [
        f"{source}: there is no column 'target'; it has targets, reference, captions; "
        "set data.target_column (to targets?)",
        f"{source}: there is no column 'caption'; it has targets, reference, captions; "
        "set data.caption_column (to captions?)",
    ]


def test_a_column_that_holds_no_pictures_is_refused(tmp_path: Path) -> None:
    source = parquet(tmp_path / "train.parquet", dataset(reference=["/etc/hostname"] * 5))
    (line,) = problems_of(source)
    assert "column 'reference' (data.reference_column) must hold pictures" in line


def test_every_bad_row_is_named_at_once_its_captions_and_its_pictures(tmp_path: Path) -> None:
    content = dataset(
        8,
        caption=["", None, "one\n\ntwo", *["fine"] * 5],
        id=["a", "b", "c", "d", "e", "f", "g", "g"],
    )
    rows = content.cast_column("target", datasets.Image(decode=False)).to_list()
    rows = [
        {**row, "reference": {"bytes": _png(2 * place + 1), "path": None}} for place, row in enumerate(rows)
    ]
    rows[0]["target"]["bytes"] = rows[0]["target"]["bytes"][:200]
    rows[3]["target"] = {"bytes": None, "path": "/etc/hostname"}
    rows[4]["reference"] = None
    rows[5]["reference"] = rows[5]["target"]
    source = parquet(tmp_path / "train.parquet", datasets.Dataset.from_list(rows, features=content.features))
    expected = {
        "row 0, column 'caption': the caption is empty",
        "row 0, column 'target': truncated or damaged picture",
        "row 1, column 'caption': no caption",
        "row 2, column 'caption': line 2 of the caption is empty",
        "row 3, column 'target': the row points outside the dataset",
        "row 4, column 'reference': there is no picture",
        "row 5, column 'target': target and reference of 'f' are the same picture",
        "row 7: the id 'g' is already taken by an earlier pair",
    }
    found = problems_of(source)
    for text in expected:
        assert any(line.startswith(f"{source} {text}") for line in found), (text, found)
    assert len(found) == len(expected), found


def _png(seed: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels(seed)).save(stream, "PNG")
    return stream.getvalue()


def test_a_missing_split_or_an_empty_one_is_named(tmp_path: Path) -> None:
    datasets.DatasetDict({"validation": dataset(1), "test": dataset(1)}).save_to_disk(str(tmp_path / "saved"))
    (line,) = problems_of(str(tmp_path / "saved"))
    assert "there is no split 'train'; it has validation, test; set data.split" in line
    dataset(1).select([]).save_to_disk(str(tmp_path / "saved-empty"), num_shards=1)
    source = str(tmp_path / "saved-empty")
    assert problems_of(source) == [f"{source}: the split 'train' has no rows"]
    (line,) = problems_of(parquet(tmp_path / "empty.parquet", dataset(1).select([])))
    assert "cannot be opened" in line and "no data" in line  # as the package says it


def test_a_dataset_that_cannot_be_reached_is_one_problem_a_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = problems_of("nobody/nothing", held_out="nobody/else")
    assert [line.partition(":")[0] for line in found] == ["data.source", "data.held_out"]
    assert all("there is no folder 'nobody/" in line and "cannot be opened" in line for line in found)
