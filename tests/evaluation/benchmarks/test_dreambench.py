"""DreamBench++'s own folder: whose questions it asks, under which names, and every fault in it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.dreambench import collection_id
from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.training.picture_references import PictureReferences

from .benchmark_files import NINE, asked, dreambench, mask, picture, problems_of, text

IDS = (
    "live_subject_animal_00_kitten",
    "live_subject_animal_01_cotton-top_tamarin",
    "live_subject_human_00_old_man",
    "object_00_piggy_bank",
    "style_00_ukiyo-e",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return dreambench(tmp_path / "bench")


def test_references_bear_the_names_of_the_benchmarks_own_collections(folder: Path) -> None:
    assert open_benchmark(str(folder)).reference_ids == IDS


def test_the_first_line_of_a_caption_is_the_subject_and_the_rest_are_prompts(folder: Path) -> None:
    benchmark = open_benchmark(str(folder))
    of_piggy_bank = [one for one in benchmark.questions if one.reference_id == "object_00_piggy_bank"]
    assert [one.pair.prompt for one in of_piggy_bank] == list(NINE)
    assert [one.number for one in of_piggy_bank] == list(range(9))
    assert {one.subject for one in of_piggy_bank} == {"piggy bank"}
    assert of_piggy_bank[8].pair.group_id == "object_00_piggy_bank#8"


def test_collections_are_the_benchmarks_categories(folder: Path) -> None:
    collections = {one.reference_id: one.collection for one in open_benchmark(str(folder)).questions}
    assert list(collections.values()) == ["animal", "animal", "human", "object", "style"]


def test_questions_about_references_that_are_a_style_are_style_and_no_others(folder: Path) -> None:
    """Prompts 4 to 6 of a subject name another style but show the subject: the paper counts them."""
    style = {one.reference_id for one in open_benchmark(str(folder)).questions if one.is_style}
    assert style == {"style_00_ukiyo-e"}


@pytest.mark.parametrize("below", ["", "data"])
def test_the_folder_may_be_the_repository_or_its_data(folder: Path, below: str) -> None:
    benchmark = open_benchmark(str(folder / below))
    assert (benchmark.kind, benchmark.name, len(benchmark.questions)) == ("dreambench", "DreamBench++", 45)
    assert benchmark.source.endswith("5 references, 45 prompts")


def test_a_mask_is_beside_the_picture_or_in_a_tree_of_its_own(folder: Path) -> None:
    data = folder / "data"
    mask(data / "images" / "live_subject" / "animal" / "00.mask.png")
    mask(data / "images" / "object" / "masks" / "00.png")
    mask(data / "masks" / "live_subject" / "human" / "00.png")
    references = open_benchmark(str(folder)).references
    assert isinstance(references, PictureReferences)
    assert references.mask_counts == {"files": 3, "whole picture": 2}
    assert references.decoded("object_00_piggy_bank")[1].sum() == 64


def test_an_alpha_channel_is_a_mask(tmp_path: Path) -> None:
    folder = dreambench(tmp_path, {"object/00": "mug"})
    (folder / "data/images/object/00.jpg").unlink()
    values = np.full((16, 16, 4), 255, np.uint8)
    values[:8, :, 3] = 0
    Image.fromarray(values).save(folder / "data/images/object/00.png")
    assert open_benchmark(str(folder)).references.mask_source == "alpha"


def test_a_part_of_it_asks_evenly_of_the_collections_and_says_so(folder: Path) -> None:
    benchmark = open_benchmark(str(folder), references=4, prompts=2)
    assert [one.collection for one in benchmark.questions][::2] == ["animal", "human", "object", "style"]
    assert benchmark.source.endswith("4 of 5 references, 8 prompts")
    assert [pair.prompt for pair in benchmark.references.pairs] == [one for _, _, one in asked(benchmark)]


def test_only_the_pictures_of_the_part_that_is_asked_are_decoded(folder: Path) -> None:
    whole = open_benchmark(str(folder), references=4)
    left_out = "00" if "live_subject_animal_01_cotton-top_tamarin" in whole.reference_ids else "01"
    (folder / f"data/images/live_subject/animal/{left_out}.jpg").write_bytes(b"no picture")
    assert open_benchmark(str(folder), references=4).reference_ids == whole.reference_ids
    assert len(problems_of(folder)) == 1


def test_a_category_of_a_category_named_style_is_style_too(tmp_path: Path) -> None:
    folder = dreambench(tmp_path, {"style/painting/00": "fresco"})
    question = open_benchmark(str(folder)).questions[0]
    assert (question.reference_id, question.collection) == ("painting_00_fresco", "style")
    assert question.is_style


def test_another_number_of_prompts_is_asked_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text(folder / "data/captions/object/00.txt", "piggy bank", *NINE[:8])
    with caplog.at_level(logging.WARNING, "divrl"):
        assert len(open_benchmark(str(folder)).questions) == 44
    assert "1 of 5 references have other than 9 prompts, such as object_00_piggy_bank with 8" in caplog.text


@pytest.mark.parametrize(
    ("category", "number", "subject", "expected"),
    [
        ("animal", "00", "kitten", "live_subject_animal_00_kitten"),
        ("human", "19", "Old Man", "live_subject_human_19_old_man"),
        ("object", "03", "Rolls-Royce hood ornament", "object_03_rolls-royce_hood_ornament"),
        ("style", "29", "low-poly geometric", "style_29_low-poly_geometric"),
    ],
)
def test_collection_ids_worked_by_hand(category: str, number: str, subject: str, expected: str) -> None:
    assert collection_id(category, number, subject) == expected


def test_a_picture_without_a_caption_and_a_caption_without_a_picture_are_named(folder: Path) -> None:
    data = folder / "data"
    (data / "captions/object/00.txt").rename(data / "captions/object/0O.txt")
    assert problems_of(data) == [
        "captions/object/0O.txt: this caption belongs to no picture; the nearest is 'object/00'",
        "images/object/00.jpg: no caption: needs captions/object/00.txt, the subject's name and then the prompts, one "
        "a line",
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"kitten\n", "no prompts after the subject's name 'kitten'"),
        (b" \n", "the caption is empty"),
        (b"kitten\n\na kitten\n", "2: this caption is empty"),
        (b"\na kitten\nanother\n", "1: this caption is empty"),
        (b"kitten\n\xff\xfe", "cannot be read as UTF-8 text"),
    ],
)
def test_a_caption_that_says_too_little_is_named(folder: Path, content: bytes, problem: str) -> None:
    (folder / "data/captions/object/00.txt").write_bytes(content)
    (line,) = problems_of(folder / "data")
    assert line.startswith("captions/object/00.txt:")
    assert problem in line


def test_unreadable_pictures_and_masks_of_another_size_are_all_named_at_once(folder: Path) -> None:
    data = folder / "data"
    (data / "images/object/00.jpg").write_bytes(b"\xff\xd8 no more")
    mask(data / "images/style/00.mask.png", size=(3, 3))
    mask(data / "masks/live_subject/human/00.png")
    mask(data / "images/live_subject/human/00.mask.png")
    lines = problems_of(data)
    assert [line.partition(": ")[0] for line in lines] == [
        "images/live_subject/human/00.jpg",
        "images/object/00.jpg",
        "images/style/00.mask.png",
    ]
    assert "one mask is needed, got images/live_subject/human/00.mask.png and masks/" in lines[0]


def test_pictures_that_would_share_a_name_are_named(folder: Path) -> None:
    data = folder / "data"
    picture(data / "images/object/00.png")
    picture(data / "images/toys/object/00.jpg")
    text(data / "captions/toys/object/00.txt", "piggy bank", *NINE)
    picture(data / "images/loose.jpg")
    assert problems_of(data) == [
        "images/loose.jpg: lies in no category; needs a folder such as images/object/loose.jpg",
        "images/object/00.png: 00.jpg is there too; one is needed",
        "images/toys/object/00.jpg: the id 'object_00_piggy_bank' is already taken by images/object/00.jpg; rename one",
    ]


def test_a_subject_that_can_name_no_folder_is_refused(folder: Path) -> None:
    text(folder / "data/captions/object/00.txt", "..\\..\\mug", *NINE)
    (line,) = problems_of(folder / "data")
    assert line.startswith("images/object/00.jpg: the id 'object_00_..\\\\..\\\\mug' cannot name a file")


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    outside = picture(tmp_path / "outside.jpg")
    (folder / "data/images/object/00.jpg").unlink()
    (folder / "data/images/object/00.jpg").symlink_to(outside)
    assert any("points outside the folder" in line for line in problems_of(folder / "data"))


def test_empty_folders_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "captions").mkdir()
    (line,) = problems_of(tmp_path)
    assert line.startswith("images: no pictures in it (.png, .jpg")
