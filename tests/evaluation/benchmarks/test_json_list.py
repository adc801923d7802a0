"""A JSON list of prompts with their pictures: what it asks, and every fault in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.training.picture_references import PictureReferences

from .benchmark_files import asked, json_list, mask, picture, problems_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("fox.png", "toys/owl.jpg", "side.png", "back.png")):
        picture(tmp_path / name, seed=seed)
    mask(tmp_path / "fox-mask.png")
    return tmp_path


def entry(prompt: object = "a fox", *paths: str, **more: object) -> dict[str, Any]:
    return {"prompt": prompt, "image_paths": list(paths or ("fox.png",)), **more}


def lines_of(folder: Path, *entries: object) -> list[str]:
    return problems_of(json_list(folder / "list.json", list(entries)))


def test_entries_about_one_picture_are_its_prompts(folder: Path) -> None:
    entries = [entry("a fox"), entry("an  owl\n", "./toys/owl.jpg"), entry("a fox in snow", "./fox.png")]
    benchmark = open_benchmark(str(json_list(folder / "list.json", entries)))
    assert asked(benchmark) == [("fox", 0, "a fox"), ("fox", 1, "a fox in snow"), ("toys/owl", 0, "an owl")]
    assert (benchmark.kind, benchmark.name) == ("list", "list")
    assert benchmark.source.endswith("list.json: 2 references, 3 prompts")


def test_further_paths_are_views_of_the_same_subject(folder: Path) -> None:
    entries = [entry("a", "fox.png", "side.png"), entry("b", "fox.png", "side.png", "back.png", "fox.png")]
    benchmark = open_benchmark(str(json_list(folder / "list.json", entries)))
    assert [Path(view.where).name for view in benchmark.views["fox"]] == ["side.png", "back.png"]
    assert benchmark.views["fox"][0].load().size == (20, 16)


def test_mask_subject_and_collection_may_be_said_once_for_all_prompts(folder: Path) -> None:
    said = entry("b", mask="fox-mask.png", subject="fox", category="animal")
    benchmark = open_benchmark(str(json_list(folder / "list.json", [entry("a"), said])))
    assert {(one.subject, one.collection, one.is_style) for one in benchmark.questions} == {
        ("fox", "animal", False)
    }
    assert isinstance(benchmark.references, PictureReferences)
    assert benchmark.references.mask_source == "files"
    assert benchmark.references.decoded("fox")[1].sum() == 64


def test_the_collection_style_holds_references_that_are_a_style(folder: Path) -> None:
    entries = [entry("a", collection="style"), entry("b", "toys/owl.jpg", collection="object")]
    questions = open_benchmark(str(json_list(folder / "list.json", entries))).questions
    assert [one.is_style for one in questions] == [True, False]


def test_keys_that_are_the_users_own_mean_nothing(folder: Path) -> None:
    path = json_list(folder / "list.json", [entry("a", seed=3, author="me")])
    assert len(open_benchmark(str(path)).questions) == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "not JSON as UTF-8 text (Expecting value: line 1 column 2"),
        ("", "not JSON as UTF-8 text"),
        ("[]", "must be a list of entries"),
        ('{"prompt": "x"}', '{"prompt": ..., "image_paths": [...]}, got dict'),
        ("[" * 100_000, "not JSON as UTF-8 text"),
    ],
)
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "list.json").write_text(content)
    (line,) = problems_of(tmp_path / "list.json")
    assert line.startswith("list.json: ")
    assert problem in line


def test_a_list_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_bytes('[{"prompt": "Füchse"}]'.encode("latin-1"))
    (line,) = problems_of(tmp_path / "list.json")
    assert "not JSON as UTF-8 text" in line


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ("a fox", "must be an object, got str"),
        ({"image_paths": ["fox.png"]}, "prompt must be a text that is not empty, got None"),
        (entry(" \n"), "prompt must be a text that is not empty, got ' \\n'"),
        (entry(7), "prompt must be a text that is not empty, got 7"),
        ({"prompt": "x"}, "image_paths must be a list of file names, the reference first, got None"),
        ({"prompt": "x", "image_paths": []}, "image_paths must be a list of file names"),
        ({"prompt": "x", "image_paths": "fox.png"}, "the reference first, got 'fox.png'"),
        ({"prompt": "x", "image_paths": ["fox.png", 3]}, "the reference first, got ['fox.png', 3]"),
        (entry("x", "../fox.png"), "image_paths: '../fox.png' points outside the folder"),
        (entry("x", "/etc/hostname"), "image_paths: '/etc/hostname' points outside the folder"),
        (entry("x", "C:\\fox.png"), "points outside the folder"),
        (entry("x", "cat.png"), "image_paths: there is no file 'cat.png' in"),
        (entry("x", "fox.png", "cat.png"), "image_paths: there is no file 'cat.png' in"),
        (entry("x", mask="cat.png"), "mask: there is no file 'cat.png' in"),
        (entry("x", mask=3), "mask must be a text that is not empty, got 3"),
        (entry("x", subject=""), "subject must be a text that is not empty, got ''"),
        (entry("x", subjects="fox"), "unknown key 'subjects'; the nearest known is 'subject'"),
        (entry("x", image_path="x"), "unknown key 'image_path'; the nearest known is 'image_paths'"),
        (entry("x", category="a", collection="a"), "one of collection and category is needed, got both"),
    ],
)
def test_a_fault_of_an_entry_is_named_with_its_place(folder: Path, wrong: object, problem: str) -> None:
    (line,) = lines_of(folder, entry("good", "toys/owl.jpg"), wrong)
    assert line.startswith("list.json: entry 1: ")
    assert problem in line


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = picture(tmp_path_factory.mktemp("outside") / "cat.png")
    (folder / "cat.png").symlink_to(outside)
    (line,) = lines_of(folder, entry("x", "cat.png"))
    assert "points outside the folder" in line


@pytest.mark.parametrize(
    ("key", "first", "second", "problem"),
    [
        ("subject", "fox", "dog", "says dog, entry 0 says fox: two subjects of one reference"),
        ("collection", "a", "b", "says b, entry 0 says a: two collections of one reference"),
        ("mask", "fox-mask.png", "side.png", "two masks of one reference"),
    ],
)
def test_entries_that_contradict_each_other_are_named(
    folder: Path, key: str, first: str, second: str, problem: str
) -> None:
    (line,) = lines_of(folder, entry("a", **{key: first}), entry("b", **{key: second}))
    assert line.startswith("list.json: entry 1: ")
    assert line.endswith(problem)


def test_the_same_question_twice_is_named(folder: Path) -> None:
    assert lines_of(folder, entry("a fox"), entry(" a  fox ")) == [
        "list.json: entry 1: asks the same of the same reference as entry 0; for several pictures of a prompt name it "
        "once"
    ]


def test_two_pictures_with_one_id_and_unreadable_ones_are_named(folder: Path) -> None:
    picture(folder / "fox.jpg")
    (folder / "side.png").write_bytes(b"no picture")
    lines = lines_of(folder, entry("a"), entry("b", "fox.jpg", "side.png"))
    assert lines == [
        "fox.jpg: the id 'fox' is already taken by fox.png; rename one",
        "side.png: not a picture that can be read: needs PNG, JPEG, WebP, BMP or TIFF",
    ]
