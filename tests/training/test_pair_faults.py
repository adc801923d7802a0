"""Pairs in folders: every fault is named, and all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from divrl_core.config_cfm import CfmDataConfig
from divrl_core.training.pair_data import open_pairs
from divrl_core.training.references import DataProblems

from .pair_files import pair_folders, picture, pixels, problems_of, write_rows


def assert_named(found: list[str], expected: dict[str, str]) -> None:
    """Each expected text stands in a line of its place (up to a comma), and there are no other lines."""
    for place, text in expected.items():
        where = place.partition(",")[0]
        assert any(line.startswith(f"{where}: ") and text in line for line in found), (place, text, found)
    assert len(found) == len(expected), found


def test_every_fault_of_two_folders_is_named_at_once(tmp_path: Path) -> None:
    folder = pair_folders(tmp_path / "data", 11)
    target, reference = folder / "target", folder / "reference"
    (reference / "toy-0.png").rename(reference / "toi-0.png")
    whole = (target / "toy-1.png").read_bytes()
    (target / "toy-1.png").write_bytes(whole[: len(whole) // 2])
    (target / "toy-1.txt").write_text(" \n\n")
    (reference / "toy-2.png").write_text("not a picture at all")
    (target / "toy-3.txt").write_text("fine\n\nfine too\n")
    (target / "toy-4.txt").rename(target / "toy-four.txt")
    picture(target / "toy-5.webp", 5)
    (reference / "toy-6.gif").write_bytes(b"GIF89a")
    (reference / "toy-7.png").unlink()
    (reference / "toy-7.png").symlink_to(picture(tmp_path / "elsewhere.png", 90))
    (reference / "toy-8.png").write_bytes((target / "toy-8.png").read_bytes())
    (target / "toy-9.txt").write_bytes(b"\xff\xfe\xff")
    (target / "toy-10.png").write_bytes(b"")
    (reference / "toy-10.png").unlink()
    expected = {
        "target/toy-0.png": "there is no reference 'toy-0' in reference; the nearest is 'toi-0'",
        "reference/toi-0.png": "there is no target 'toi-0' in target; the nearest is 'toy-0'",
        "target/toy-1.png": "truncated or damaged picture",
        "target/toy-1.txt": "the caption is empty",
        "reference/toy-2.png": "not a picture that can be read",
        "target/toy-3.txt:2": "this caption is empty",
        "target/toy-4.png": "no caption: needs a file toy-4.txt beside it",
        "target/toy-four.txt": "this caption belongs to no picture",
        "target/toy-5.webp": "toy-5.png has the same name; keep one of them",
        "reference/toy-6.gif": "convert it",
        "reference/toy-7.png": "points outside the folder",
        "target/toy-7.png": "there is no reference 'toy-7'",
        "target/toy-8.png": "target and reference of 'toy-8' are the same picture",
        "target/toy-9.txt": "cannot be read as UTF-8 text",
        "target/toy-10.png": "there is no reference 'toy-10'",
        "target/toy-10.png, too": "not a picture that can be read",
    }
    assert_named(problems_of(folder), expected)


def test_every_fault_of_a_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for name in "abc":
        picture(folder / f"{name}.png", ord(name))
    (folder / "c.txt").write_text("")
    (folder / "bad.png").write_bytes(b"\x89PNG")
    outside = picture(tmp_path / "elsewhere.png", 90)
    (folder / "linked.png").symlink_to(outside)
    good = {"target": "a.png", "reference": "b.png", "caption": "x"}
    rows: list[tuple[object, tuple[str, ...]]] = [
        (good, ()),
        ({**good, "target": "../elsewhere.png"}, ("'../elsewhere.png' points outside the folder",)),
        ({**good, "reference": str(outside)}, ("points outside the folder",)),
        ({**good, "reference": "linked.png"}, ("points outside the folder", "through a link")),
        ({**good, "reference": "..\\b.png"}, ("points outside the folder",)),
        ({**good, "reference": "C:\\b.png"}, ("points outside the folder",)),
        ({**good, "target": "gone.png"}, ("there is no file 'gone.png'",)),
        ("{broken", ("not JSON",)),
        (["a.png", "b.png"], ("a row must be a JSON object, got list",)),
        (good, ("the id 'a.png<b.png' is already taken by an earlier pair",)),
        (
            {"target": "a.png", "referense": "b.png", "caption": "x"},
            (
                "unknown key 'referense'; the nearest known is 'reference'",
                "reference must name a picture, got None; the row has target, referense, caption",
            ),
        ),
        ({"image": "a.png", "reference": "b.png"}, ("target must name a picture, got None",)),
        ({**good, "caption": "", "id": 1}, ("the caption is empty",)),
        ({**good, "caption": ["fine", " "], "id": 2}, ("caption 2 of 2 is empty",)),
        ({**good, "caption": 3, "id": 3}, ("captions must be a text or a list of texts, got 3",)),
        ({**good, "captions": ["y"], "id": 4}, ("one of captions and caption is needed, got both",)),
        ({**good, "file_name": "c.png", "id": 5}, ("one of target and file_name is needed, got both",)),
        ({**good, "id": ["q"]}, ("id must be a text or a whole number, got ['q']",)),
        ({"target": "a.png", "reference": "b.png"}, ("no caption: needs a file a.txt beside it",)),
        ({**good, "target": 5}, ("target must name a picture, got 5",)),
        ({**good, "reference": "a\0b.png"}, ("not a usable path",)),
    ]  # fmt: skip
    write_rows(
        folder,
        *(row for row, _ in rows),
        {"target": "c.png", "reference": "b.png"},  # the caption file is empty
        {"target": "a.png", "reference": "bad.png", "caption": ""},  # wrong in two ways
        {"target": "b.png", "reference": "b.png", "caption": "x", "id": "mirror"},
    )
    expected = {
        f"metadata.jsonl:{number}, {text}": text
        for number, (_, texts) in enumerate(rows, 1)
        for text in texts
    }
    del expected["metadata.jsonl:4, through a link"]  # in the same line as the text before
    expected |= {
        "c.txt": "the caption is empty",
        "metadata.jsonl:23": "the caption is empty",
        "bad.png": "not a picture that can be read",
        "b.png": "target and reference of 'mirror' are the same picture",
    }
    assert_named(problems_of(folder), expected)


def test_every_fault_of_a_folder_of_grids_is_named_at_once_and_once_a_grid(tmp_path: Path) -> None:
    for place in range(6):
        picture(tmp_path / f"sheet-{place}.png", place, size=(10, 10), caption="a toy\n")
    (tmp_path / "sheet-0.txt").write_text("one\ntwo\nthree\n")
    picture(tmp_path / "sheet-1.png", 1, size=(11, 10))
    (tmp_path / "sheet-2.png").write_bytes(b"nothing")
    (tmp_path / "sheet-3.txt").unlink()
    sheet = pixels(4, (10, 10))
    sheet[6:, :4] = sheet[:4, :4]  # its two left panels are one picture
    Image.fromarray(sheet).save(tmp_path / "sheet-4.png")
    (tmp_path / "stray.txt").write_text("x")
    expected = {
        "sheet-0.txt": "a grid of 2x2 needs one caption or 4, one a panel row by row, got 3",
        "sheet-1.png": "a grid of 2x2 panels with gaps of 2 px does not divide a picture of 11 x 10 px",
        "sheet-2.png": "not a picture that can be read",
        "sheet-3.png": "no caption: needs a file sheet-3.txt",
        "sheet-4.png": "of 'sheet-4[0,0]<sheet-4[1,0]' are the same picture",
        "sheet-4.png, too": "of 'sheet-4[1,0]<sheet-4[0,0]' are the same picture",
        "stray.txt": "this caption belongs to no picture",
    }
    assert_named(problems_of(tmp_path, grid="2x2", grid_gap_px=2), expected)


def test_a_place_without_pairs_says_what_it_needs(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (line,) = problems_of(empty)
    for word in ("no pairs here", "metadata.jsonl", "target/", "reference/", "data.references", "data.grid"):
        assert word in line
    (line,) = problems_of(empty, grid="2x2")
    assert line.startswith(f"{empty}: no grids here (.png, ")
    (line,) = problems_of(empty, references=str(empty))
    assert line.startswith(f"{empty}: no pictures here (.png, ")
    (empty / "metadata.jsonl").write_text("\n \n")
    assert problems_of(empty) == ["metadata.jsonl: has no rows"]
    (empty / "metadata.jsonl").write_bytes(b"\xff\xfe\xff")
    (line,) = problems_of(empty)
    assert line.startswith("metadata.jsonl: cannot be read as UTF-8 text")


def test_a_manifest_that_is_a_link_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "data" / "metadata.jsonl").symlink_to(tmp_path / "rows.jsonl")
    (line,) = problems_of(tmp_path / "data")
    assert line.startswith("metadata.jsonl: points outside the folder")


def test_problems_of_both_sources_come_together_each_under_its_setting(tmp_path: Path) -> None:
    folder = pair_folders(tmp_path / "data", 2)
    (folder / "target" / "toy-0.txt").write_text("")
    nowhere = tmp_path / "nowhere"
    found = problems_of(folder, held_out=str(nowhere))
    assert found == ["target/toy-0.txt: the caption is empty", f"data.held_out: no folder at {nowhere}"]
    assert problems_of(nowhere) == [f"data.source: no folder at {nowhere}"]
    found = problems_of(folder / "target", references=str(nowhere))
    assert found == [f"data.source: no folder at {nowhere} (data.references)"]


def test_a_picture_that_breaks_after_the_check_is_named_when_loaded(tmp_path: Path) -> None:
    data = open_pairs(CfmDataConfig(source=str(pair_folders(tmp_path, 2))))
    pair = data.train.pairs[0]
    (tmp_path / "reference" / f"{pair.pair_id}.png").write_bytes(b"gone bad")
    with pytest.raises(ValueError, match=r"reference/toy-\d\.png: not a picture"):
        data.train.load(pair.reference_id)


def test_settings_that_say_nothing_about_the_source_are_problems(tmp_path: Path) -> None:
    with pytest.raises(DataProblems) as caught:
        open_pairs(CfmDataConfig(source="pocket", references=str(tmp_path)))
    assert caught.value.lines == (
        "data.references: says nothing about the pocket world, which holds its own references; leave it out",
    )
    (tmp_path / "pairs.parquet").touch()
    with pytest.raises(DataProblems, match=r"data\.grid: says nothing about the dataset .*pairs\.parquet"):
        open_pairs(CfmDataConfig(source=str(tmp_path / "pairs.parquet"), grid="2x2"))


def test_a_folder_held_out_from_itself_is_one_problem(tmp_path: Path) -> None:
    with pytest.raises(DataProblems, match=r"data\.held_out: is data\.source itself"):
        open_pairs(CfmDataConfig(source=str(tmp_path), held_out=str(tmp_path)))


def test_a_folder_of_targets_that_is_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "pairs"
    outside.mkdir()
    (folder / "reference").mkdir(parents=True)
    (folder / "target").symlink_to(outside)
    with pytest.raises(DataProblems) as caught:
        open_pairs(CfmDataConfig(source=str(folder)))
    assert len(caught.value.lines) == 1 and "points outside the folder" in caught.value.lines[0]
