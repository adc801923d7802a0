"""Finished pictures of another system: which file is which picture, and what is missing, too many or unreadable."""

from __future__ import annotations

from pathlib import Path

import pytest

from divrl_core.evaluation.benchmarks.base import names_of
from divrl_core.evaluation.benchmarks.finished import find_finished
from divrl_core.training.references import DataProblems

from .benchmark_files import finished, mask, name, questions_of, text

TWO = {"fox": 2, "owl": 1}
ALL = ("fox/0_0.png", "fox/0_1.png", "fox/1_0.png", "fox/1_1.png", "owl/0_0.png", "owl/0_1.png")


def lines_of(folder: Path, prompts: dict[str, int], **options: int) -> list[str]:
    with pytest.raises(DataProblems) as raised:
        find_finished(folder, questions_of(prompts), **options)
    return [line.replace(f"{folder}", "F") for line in raised.value.lines]


def test_our_own_layout_is_read_in_the_order_of_the_questions(tmp_path: Path) -> None:
    found = find_finished(finished(tmp_path, *reversed(ALL)), questions_of(TWO))
    assert found.pictures_each == 2
    assert tuple(found.pictures) == names_of(questions_of(TWO), 2)
    assert {one.file: path for one, path in found.pictures.items()} == {
        Path(file): tmp_path / file for file in ALL
    }


def test_names_in_one_folder_are_read(tmp_path: Path) -> None:
    flat = finished(tmp_path, *(file.replace("/", "_").replace(".png", ".JPG") for file in ALL))
    found = find_finished(flat, questions_of(TWO))
    assert found.pictures[name("fox", 1, 0)] == tmp_path / "fox_1_0.JPG"
    assert len(found.pictures) == 6


def test_the_prompts_number_may_be_left_out_where_there_is_one_prompt_each(tmp_path: Path) -> None:
    folder = finished(tmp_path, "fox_0.png", "fox_1.png", "toys/owl_00.png", "toys/owl_01.png")
    found = find_finished(folder, questions_of({"fox": 1, "toys/owl": 1}))
    assert found.pictures == {
        name("fox", 0, 0): tmp_path / "fox_0.png",
        name("fox", 0, 1): tmp_path / "fox_1.png",
        name("toys/owl", 0, 0): tmp_path / "toys" / "owl_00.png",
        name("toys/owl", 0, 1): tmp_path / "toys" / "owl_01.png",
    }


def test_the_prompts_number_may_not_be_left_out_where_a_reference_has_two(tmp_path: Path) -> None:
    (line,) = lines_of(finished(tmp_path, "fox_0.png", "owl_0.png"), TWO)
    assert line.startswith(
        "F: none of its pictures answers a question: fox_0.png (not so named), owl_0.png ("
    )
    assert line.endswith("needs REFERENCE/NUMBER_K.png or REFERENCE_NUMBER_K.png, counted from 0")


def test_samples_of_dreambench_are_read_below_their_tgt_image(tmp_path: Path) -> None:
    folder = finished(tmp_path, "tgt_image/fox/0_0.jpg", "src_image/fox/0_0.jpg")
    text(folder / "text" / "fox" / "0_0.txt", " prompt  0 ")
    found = find_finished(folder, questions_of({"fox": 1}))
    assert found.pictures == {name("fox", 0, 0): folder / "tgt_image" / "fox" / "0_0.jpg"}


def test_samples_that_were_made_for_other_prompts_are_refused(tmp_path: Path) -> None:
    folder = finished(tmp_path, "tgt_image/fox/0_0.jpg")
    text(folder / "text" / "fox" / "0_0.txt", "a cat")
    assert lines_of(folder, {"fox": 1}) == [
        "F/text: 1 of 1 pictures were made for other prompts than the benchmark's: fox/0_0.txt ('a cat', not 'prompt "
        "0')"
    ]


def test_masks_sheets_and_hidden_files_are_no_pictures(tmp_path: Path) -> None:
    folder = finished(tmp_path, "fox/0_0.png", "sheet.jpg", ".fox.png", "masks/fox.png")
    mask(folder / "fox" / "0_0.mask.png")
    text(folder / "notes.txt", "x")
    assert len(find_finished(folder, questions_of({"fox": 1})).pictures) == 1


def test_missing_pictures_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    folder = finished(tmp_path, *ALL[:4])
    assert lines_of(folder, {"fox": 2, "owl": 3, "cat": 1}) == [
        "F: 8 of 12 pictures are missing: owl/0_0.png, owl/0_1.png, owl/1_0.png and 5 more"
    ]
    assert lines_of(folder, {"fox": 2}, pictures_each=3) == [
        "F: 2 of 6 pictures are missing: fox/0_2.png, fox/1_2.png; most questions have 2: --pictures-each 2"
    ]


def test_surplus_pictures_are_counted_and_told_why_they_are_none(tmp_path: Path) -> None:
    folder = finished(tmp_path, *ALL, "foxx/0_0.png", "fox/2_0.png", "best.png")
    (line,) = lines_of(folder, TWO)
    assert line == (
        "F: 3 pictures are not asked for: best.png (not so named), fox/2_0.png ('fox' has 2 prompts, from 0), "
        "foxx/0_0.png (no reference 'foxx'; the nearest is 'fox'); needs REFERENCE/NUMBER_K.png or "
        "REFERENCE_NUMBER_K.png, counted from 0"
    )
    (line,) = lines_of(finished(tmp_path / "more", *ALL), TWO, pictures_each=1)
    assert line.startswith(
        "F: 3 pictures are not asked for: fox/0_1.png (1 of each question are wanted, from 0), "
    )


def test_one_picture_too_many_does_not_make_all_others_too_few(tmp_path: Path) -> None:
    (line,) = lines_of(finished(tmp_path, *ALL, "owl/0_2.png"), TWO)
    assert line.startswith(
        "F: 1 picture is not asked for: owl/0_2.png (2 of each question are wanted, from 0)"
    )


def test_of_a_part_of_a_benchmark_other_pictures_are_left_alone(tmp_path: Path) -> None:
    folder = finished(tmp_path, *ALL, "cat/0_0.png")
    found = find_finished(folder, questions_of({"fox": 1}), is_part=True)
    assert list(found.pictures.values()) == [tmp_path / "fox/0_0.png", tmp_path / "fox/0_1.png"]
    (line,) = lines_of(folder, {"fox": 1}, is_part=True, pictures_each=1)
    assert "1 picture is not asked for: fox/0_1.png" in line


def test_of_a_part_a_number_alone_is_not_read_as_one_prompts_picture(tmp_path: Path) -> None:
    """With all nine prompts fox_0.png to fox_8.png might be nine prompts; asked for one, they are not its pictures."""
    folder = finished(tmp_path, *(f"fox_{number}.png" for number in range(9)))
    (line,) = lines_of(folder, {"fox": 1}, is_part=True)
    assert "fox_0.png (not so named)" in line


def test_counting_from_one_is_told(tmp_path: Path) -> None:
    lines = lines_of(finished(tmp_path, "fox_1.png", "fox_2.png"), {"fox": 1})
    assert lines == [
        "F: 1 of 3 pictures are missing: fox/0_0.png; pictures of a question are counted from 0",
    ]


def test_two_files_of_one_picture_are_named(tmp_path: Path) -> None:
    folder = finished(tmp_path, "fox/0_0.png", "fox_0_0.png", "fox/0_0.jpg")
    assert lines_of(folder, {"fox": 1}) == [
        "F/fox/0_0.png: is the same picture as fox/0_0.jpg; keep one",
        "F/fox_0_0.png: is the same picture as fox/0_0.jpg; keep one",
    ]


def test_a_name_that_fits_two_references_is_refused(tmp_path: Path) -> None:
    (line,) = lines_of(finished(tmp_path, "fox_0_1.png"), {"fox": 1, "fox_0": 1})
    assert "fox_0_1.png (may be of 'fox' or of 'fox_0'; use folders)" in line


def test_unreadable_pictures_are_named_one_by_one(tmp_path: Path) -> None:
    folder = finished(tmp_path, *ALL)
    (folder / "fox/1_1.png").write_bytes((folder / "fox/1_0.png").read_bytes()[:99])
    (folder / "owl/0_0.png").write_bytes(b"")
    lines = lines_of(folder, TWO)
    assert [line.partition(":")[0] for line in lines] == ["F/fox/1_1.png", "F/owl/0_0.png"]


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of finished pictures at"):
        find_finished(tmp_path / "nothing", questions_of(TWO))
    (line,) = lines_of(tmp_path, TWO)
    assert line.startswith("F: no pictures in it (.png, .jpg")


def test_the_folder_of_all_systems_names_those_in_it(tmp_path: Path) -> None:
    for system in ("emu2", "blip"):
        (tmp_path / system / "tgt_image").mkdir(parents=True)
    (line,) = lines_of(tmp_path, TWO)
    assert line.endswith("; name one of its folders: blip, emu2")
