"""The folder that training takes, as a benchmark; and further views of its subjects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.training.folder_data import read_folder

from .benchmark_files import asked, picture, plain, problems_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return plain(tmp_path / "toys", {"fox": ["a fox", "a fox in the snow"], "owl": ["an owl"]})


def test_every_line_beside_a_picture_is_a_question(folder: Path) -> None:
    benchmark = open_benchmark(str(folder))
    assert asked(benchmark) == [("fox", 0, "a fox"), ("fox", 1, "a fox in the snow"), ("owl", 0, "an owl")]
    assert (benchmark.kind, benchmark.name) == ("folder", "toys")
    assert benchmark.source == f"{folder}: 2 references, 3 prompts"
    assert not any(one.subject or one.collection or one.is_style for one in benchmark.questions)
    assert benchmark.views == {}


def test_rows_of_metadata_are_references_as_in_training(tmp_path: Path) -> None:
    picture(tmp_path / "toys" / "fox.png")
    row = {"file_name": "toys/fox.png", "captions": ["a fox", "two"]}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    picture(tmp_path / "views" / "toys" / "fox" / "side.jpg")
    benchmark = open_benchmark(str(tmp_path))
    assert asked(benchmark) == [("toys/fox", 0, "a fox"), ("toys/fox", 1, "two")]
    assert [view.where for view in benchmark.views["toys/fox"]] == [f"{tmp_path}/views/toys/fox/side.jpg"]


def test_views_are_pictures_with_a_references_name_or_in_its_folder(folder: Path) -> None:
    side = picture(folder / "views" / "fox" / "side.png", seed=7, size=(9, 5))
    picture(folder / "views" / "fox" / "back.png")
    picture(folder / "views" / "owl.png")
    (folder / "views" / "fox" / "notes.txt").write_text("of last summer")
    views = open_benchmark(str(folder)).views
    assert {name: [Path(view.where).name for view in of_one] for name, of_one in views.items()} == {
        "fox": ["back.png", "side.png"],
        "owl": ["owl.png"],
    }
    loaded = views["fox"][1].load()
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(Image.open(side)))


def test_training_reads_the_folder_without_its_views(folder: Path) -> None:
    picture(folder / "views" / "fox" / "side.png")
    sources, problems = read_folder(folder)
    assert [source.reference_id for source in sources] == ["fox", "owl"]
    assert problems == []


def test_views_of_references_that_are_not_asked_are_left_out(folder: Path) -> None:
    for name in ("fox", "owl"):
        picture(folder / "views" / f"{name}.png")
    benchmark = open_benchmark(str(folder), references=1)
    assert set(benchmark.views) == set(benchmark.reference_ids)
    assert benchmark.source.startswith(f"{folder}: 1 of 2 references")


def test_a_view_of_no_reference_and_an_unreadable_one_are_named(folder: Path) -> None:
    picture(folder / "views" / "foxx" / "side.png")
    (folder / "views" / "owl.png").write_bytes(b"")
    lines = problems_of(folder)
    assert lines[0] == "views/foxx/side.png: this view belongs to no reference; the nearest is 'fox'"
    assert lines[1].startswith("views/owl.png: ")
    assert len(lines) == 2


def test_a_view_among_the_references_is_told_where_it_belongs(folder: Path) -> None:
    picture(folder / "fox.view1.png")
    assert problems_of(folder) == [
        "fox.view1.png: is no reference without a caption; if it is a further view, put it into views/fox/"
    ]


def test_faults_of_the_folder_are_those_that_training_names(folder: Path) -> None:
    (folder / "owl.png").unlink()
    picture(folder / "cat.png")
    (folder / "fox.txt").write_text("\n")
    lines = problems_of(folder)
    assert lines == [
        "owl.txt: this caption belongs to no picture",
        "cat.png: no caption: needs a file cat.txt beside it, one prompt a line",
        "fox.txt: the caption is empty",
    ]


def test_an_id_that_cannot_name_a_file_is_refused(folder: Path) -> None:
    row = {"file_name": "fox.png", "captions": ["a fox"], "id": "../fox"}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (line,) = problems_of(folder)
    assert line == "fox.png: the id '../fox' cannot name a file; needs one such as 'fox' or 'toys/fox'"


def test_two_references_with_one_id_are_named(folder: Path) -> None:
    picture(folder / "fox.jpg")
    assert problems_of(folder) == ["fox.png: the id 'fox' is already taken by fox.jpg"]
