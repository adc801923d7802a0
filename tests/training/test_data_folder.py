"""A folder of reference pictures: what is read, and that every fault is named."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.config import DataConfig
from divrl_core.training.data import DataProblems, open_data
from divrl_core.training.folder_data import read_folder
from divrl_core.training.picture_references import PictureReferences, check_sources


def picture(path: Path, *, seed: int = 0, size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def mask(path: Path, *, size: tuple[int, int] = (24, 24)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((size[1], size[0]), dtype=np.uint8)
    values[size[1] // 4 : size[1] // 2, : size[0] // 2] = 255
    Image.fromarray(values).save(path)
    return path


def good_folder(folder: Path, count: int = 5) -> Path:
    for place in range(count):
        picture(folder / f"toy-{place}.png", seed=place)
        (folder / f"toy-{place}.txt").write_text(f"a toy\na toy on floor {place}\n")
    return folder


def write_rows(folder: Path, *rows: object) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def problems_of(folder: Path) -> list[str]:
    sources, problems = read_folder(folder)
    return [line.replace(f"{folder}/", "") for line in problems + check_sources(sources)[1]]


def references_of(folder: Path) -> PictureReferences:
    sources, problems = read_folder(folder)
    checked, picture_problems = check_sources(sources)
    assert not problems + picture_problems
    return PictureReferences(checked)


def test_lines_of_the_text_beside_a_picture_are_its_prompts(tmp_path: Path) -> None:
    picture(tmp_path / "fox.JPG")
    (tmp_path / "fox.txt").write_bytes("\ufefffirst\r\n second \r\n\r\n".encode())
    references = references_of(tmp_path)
    assert [(pair.group_id, pair.prompt) for pair in references.pairs] == [
        ("fox#0", "first"),
        ("fox#1", "second"),
    ]


def test_masks_are_found_beside_the_picture_in_the_masks_folder_and_in_alpha(tmp_path: Path) -> None:
    good_folder(tmp_path)
    mask(tmp_path / "toy-0.mask.png")
    mask(tmp_path / "masks" / "toy-1.png")
    cut_out = Image.new("RGBA", (24, 24), (9, 9, 9, 0))
    cut_out.paste((200, 10, 10, 255), (6, 6, 18, 18))
    cut_out.save(tmp_path / "toy-2.png")
    Image.new("RGBA", (24, 24), (50, 90, 9, 255)).save(tmp_path / "toy-3.png")  # opaque: says nothing
    references = references_of(tmp_path)
    assert references.mask_counts == {"files": 2, "alpha": 1, "whole picture": 2}
    assert references.mask_source == "2 files, 1 alpha, 2 whole picture"
    assert references.select(["toy-0", "toy-1"]).mask_source == "files"
    assert [int(references.load(f"toy-{place}", 24).mask.sum()) for place in range(5)] == [
        72,
        72,
        144,
        576,
        576,
    ]


def test_rows_of_metadata_name_pictures_masks_captions_and_ids(tmp_path: Path) -> None:
    picture(tmp_path / "shots" / "a.png")
    mask(tmp_path / "cut" / "a.png")
    picture(tmp_path / "b.png", seed=1)
    (tmp_path / "b.txt").write_text("from the file\n")
    rows = [
        {
            "file_name": "shots/a.png",
            "mask": "cut/a.png",
            "captions": ["one", "two"],
            "id": 7,
            "licence": "mine",
        },
        {"image": "b.png"},
    ]
    write_rows(tmp_path, *rows)
    references = references_of(tmp_path)
    assert [(pair.group_id, pair.prompt) for pair in references.pairs] == [
        ("7#0", "one"),
        ("7#1", "two"),
        ("b#0", "from the file"),
    ]
    assert references.mask_counts == {"files": 1, "whole picture": 1}


def test_pictures_that_the_metadata_leaves_out_are_counted_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good_folder(tmp_path, 3)
    write_rows(tmp_path, {"file_name": "toy-1.png", "caption": "a toy"})
    with caplog.at_level(logging.WARNING, "divrl"):
        assert references_of(tmp_path).reference_ids == ("toy-1",)
    assert "does not name 2 of the pictures in its folder, such as toy-0.png" in caplog.text


def test_every_fault_of_a_folder_is_named_at_once(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "photos", 9)
    whole = (folder / "toy-0.png").read_bytes()
    (folder / "toy-0.png").write_bytes(whole[: len(whole) // 2])
    mask(folder / "masks" / "toy-1.png", size=(24, 20))
    Image.new("L", (24, 24), 0).save(folder / "toy-2.mask.png")
    (folder / "toy-3.txt").write_text(" \n\n")
    (folder / "toy-4.txt").write_text("fine\n\nfine too\n")
    (folder / "toy-5.txt").rename(folder / "toy-five.txt")
    (folder / "toy-6.png").write_text("not a picture at all")
    picture(folder / "toy-7.webp")
    outside = picture(tmp_path / "elsewhere.png")
    (folder / "toy-8.png").unlink()
    (folder / "toy-8.png").symlink_to(outside)
    mask(folder / "toy-9.mask.png")
    (folder / "toy-10.heic").write_bytes(b"....")
    found = problems_of(folder)
    expected = {
        "toy-0.png": "truncated or damaged picture",
        "masks/toy-1.png": "as large as its picture, 24 x 24 px, got 24 x 20 px",
        "toy-2.mask.png": "the mask is empty: its brightest value is 0",
        "toy-3.txt": "the caption is empty",
        "toy-4.txt:2": "this caption is empty",
        "toy-5.png": "no caption: needs a file toy-5.txt",
        "toy-five.txt": "belongs to no picture",
        "toy-6.png": "not a picture",
        "toy-7.webp": "the id 'toy-7' is already taken by toy-7.png",
        "toy-8.png": "points outside the folder",
        "toy-9.mask.png": "this mask belongs to no picture",
        "toy-10.heic": "convert it",
    }
    for name, text in expected.items():
        assert any(line.startswith(f"{name}: ") and text in line for line in found), (name, found)
    assert len(found) == len(expected)


def test_every_fault_of_a_manifest_is_named_with_its_line(tmp_path: Path) -> None:
    folder = good_folder(tmp_path / "photos", 2)
    outside = picture(tmp_path / "elsewhere.png")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.png").symlink_to(folder / "loop.png")
    rows = {
        1: ({"file_name": "toy-0.png", "captions": ["good", " "]}, "caption 2 of 2 is empty"),
        2: (
            {"file_name": "../elsewhere.png", "caption": "x"},
            "'../elsewhere.png' points outside the folder",
        ),
        3: ({"file_name": str(outside), "caption": "x"}, "points outside the folder"),
        4: ({"file_name": "linked/elsewhere.png", "caption": "x"}, "through a link"),
        5: ({"file_name": "C:\\photos\\a.png", "caption": "x"}, "points outside the folder"),
        6: ({"file_name": "..\\a.png", "caption": "x"}, "points outside the folder"),
        7: ({"file_name": "toy-1.png", "mask": "../m.png", "caption": "x"}, "'../m.png' points outside"),
        8: ({"file_name": "gone.png", "caption": "x"}, "there is no file 'gone.png'"),
        9: ("{broken", "not JSON"),
        10: (["toy-0.png"], "a row must be a JSON object, got list"),
        11: (
            {"file_name": "toy-0.png", "caption": "again"},
            "the id 'toy-0' is already taken by metadata.jsonl:1",
        ),
        12: (
            {"fil_name": "toy-0.png", "id": "k"},
            "unknown key 'fil_name'; the nearest known is 'file_name'",
        ),
        13: (
            {"file_name": "toy-0.png", "id": "p", "captions": 3},
            "captions must be a text or a list of texts, got 3",
        ),
        14: ({"file_name": "toy-0.png", "id": ["q"], "caption": "x"}, "id must be a text or a whole number"),
        15: ({"file_name": "loop.png", "caption": "x"}, "loop.png"),
        16: ({"file_name": "a\0b.png", "caption": "x"}, "not a usable path"),
        17: ({"file_name": "toy-0.png", "id": "r", "caption": ""}, "the caption is empty"),
    }
    write_rows(folder, *(row for row, _ in rows.values()))
    found = problems_of(folder)
    for number, (_, text) in rows.items():
        assert any(line.startswith(f"metadata.jsonl:{number}: ") and text in line for line in found), (
            number,
            found,
        )


def test_a_picture_and_its_caption_may_both_be_wrong(tmp_path: Path) -> None:
    good_folder(tmp_path, 1)
    (tmp_path / "toy-0.png").write_bytes(b"\x89PNG")
    (tmp_path / "toy-0.txt").write_text("")
    assert sorted(line.split(":")[0] for line in problems_of(tmp_path)) == ["toy-0.png", "toy-0.txt"]


def test_two_masks_for_one_picture_are_refused(tmp_path: Path) -> None:
    good_folder(tmp_path, 1)
    mask(tmp_path / "masks" / "toy-0.png")
    mask(tmp_path / "toy-0.mask.png")
    assert problems_of(tmp_path) == ["toy-0.png: one mask is needed, got toy-0.mask.png and masks/toy-0.png"]


def test_an_empty_folder_names_the_folders_inside_it(tmp_path: Path) -> None:
    good_folder(tmp_path / "train", 1)
    (problem,) = read_folder(tmp_path)[1]
    assert "no pictures here" in problem and "name one of its folders: train" in problem


def test_the_split_keeps_every_reference_on_one_side(tmp_path: Path) -> None:
    data = open_data(DataConfig(source=str(good_folder(tmp_path, 12)), held_out_references=3))
    train, held_out = ({pair.reference_id for pair in side.pairs} for side in (data.train, data.held_out))
    assert len(train) == 9 and len(held_out) == 3 and not train & held_out
    picture(
        tmp_path / "another.png", seed=99
    )  # a new picture moves no other from the held-out side to training
    (tmp_path / "another.txt").write_text("another\n")
    more = open_data(DataConfig(source=str(tmp_path), held_out_references=3))
    assert len(held_out - {pair.reference_id for pair in more.held_out.pairs}) <= 1


def test_a_held_out_folder_may_share_neither_pictures_nor_ids_with_the_source(tmp_path: Path) -> None:
    source, other = good_folder(tmp_path / "train"), tmp_path / "other"
    picture(other / "copy.png", seed=2)  # the same pixels as toy-2
    picture(other / "toy-1.png", seed=50)
    picture(other / "new.png", seed=51)
    for name in ("copy", "toy-1", "new"):
        (other / f"{name}.txt").write_text("a toy\n")
    with pytest.raises(DataProblems) as caught:
        open_data(DataConfig(source=str(source), held_out=str(other)))
    assert len(caught.value.lines) == 2
    assert "'copy' is the same picture as 'toy-2'" in str(caught.value)
    assert "'toy-1' has the id of another picture" in str(caught.value)


def test_a_held_out_folder_is_evaluated_up_to_the_number_asked_for(tmp_path: Path) -> None:
    source, other = good_folder(tmp_path / "train"), tmp_path / "other"
    for name in ("x", "y", "z"):
        picture(other / f"{name}.png", seed=ord(name))
        (other / f"{name}.txt").write_text("a toy\n")
    data = open_data(DataConfig(source=str(source), held_out=str(other), held_out_references=2))
    assert len(data.train.pairs) == 10 and len(data.held_out.pairs) == 2


def test_problems_of_both_sources_come_together(tmp_path: Path) -> None:
    source = good_folder(tmp_path / "train")
    (source / "toy-0.txt").write_text("")
    with pytest.raises(DataProblems) as caught:
        open_data(DataConfig(source=str(source), held_out=str(tmp_path / "nowhere")))
    assert [line.split(":")[0] for line in caught.value.lines] == [str(source / "toy-0.txt"), "data.held_out"]


def test_only_the_first_prompts_are_used_when_so_set(tmp_path: Path) -> None:
    config = DataConfig(source=str(good_folder(tmp_path)), held_out_references=1, prompts_per_reference=1)
    data = open_data(config)
    assert {pair.prompt for pair in data.train.pairs} == {"a toy"} and len(data.train.pairs) == 4
    assert data.train.load(data.train.pairs[0].reference_id, 16).image.shape == (3, 16, 16)


def test_a_picture_that_breaks_after_the_check_is_named_when_loaded(tmp_path: Path) -> None:
    references = references_of(good_folder(tmp_path, 1))
    (tmp_path / "toy-0.png").write_bytes(b"gone bad")
    with pytest.raises(ValueError, match=r"toy-0\.png: not a picture"):
        references.load("toy-0", 16)


def test_photographs_with_drawn_masks_load_at_the_training_size(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data")
    ellipses = {  # centre and half axes, in pixels, drawn by eye around the subject
        "astronaut": ((100, 220), (100, 80)),
        "cat": ((130, 230), (110, 120)),
        "coffee": ((200, 300), (150, 200)),
        "rocket": ((240, 320), (180, 30)),
    }
    for name, ((row, column), (height, width)) in ellipses.items():
        photograph = getattr(data, name)()
        y, x = np.ogrid[: photograph.shape[0], : photograph.shape[1]]
        inside = ((y - row) / height) ** 2 + ((x - column) / width) ** 2 <= 1
        Image.fromarray(photograph).save(tmp_path / f"{name}.png")
        Image.fromarray(inside.astype(np.uint8) * 255).save(tmp_path / f"{name}.mask.png")
        (tmp_path / f"{name}.txt").write_text(f"a photograph of the {name}\nthe {name} in snow\n")
    opened = open_data(DataConfig(source=str(tmp_path), held_out_references=1), size_px=128)
    assert opened.train.mask_source == opened.held_out.mask_source == "files"
    assert len(opened.train.pairs) == 6 and len(opened.held_out.pairs) == 2
    for side in (opened.train, opened.held_out):
        for pair in side.pairs:
            reference = side.load(pair.reference_id, 128)
            assert reference.image.shape == (3, 128, 128) and reference.mask.shape == (128, 128)
            assert 0.05 < reference.mask.float().mean() < 0.8
            assert reference.image.min() >= 0 and reference.image.max() <= 1
