"""A benchmark from what a user names: which layout is found, how much of it is asked, what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from divrl_core.config import SegmenterConfig
from divrl_core.evaluation.benchmarks.limits import kept_ids
from divrl_core.evaluation.benchmarks.opening import open_benchmark
from divrl_core.evaluation.benchmarks.reference_ids import id_problem
from divrl_core.training.picture_references import PictureReferences

from .benchmark_files import dreambench, finished, json_list, mask, picture, plain, text


def test_the_layout_is_found_by_what_is_there(tmp_path: Path) -> None:
    list_path = tmp_path / "list" / "list.json"
    picture(list_path.parent / "fox.png")
    specs = {
        "dreambench": dreambench(tmp_path / "bench"),
        "folder": plain(tmp_path / "plain", {"fox": ["a fox"]}),
        "list": json_list(list_path, [{"prompt": "a fox", "image_paths": ["fox.png"]}]),
        "pocket": "pocket:1",
    }
    assert [open_benchmark(str(spec)).kind for spec in specs.values()] == list(specs)


def test_questions_of_one_reference_follow_each_other_and_agree_with_the_references(tmp_path: Path) -> None:
    for spec in (
        dreambench(tmp_path / "a"),
        plain(tmp_path / "b", {"fox": ["x", "y"], "owl": ["z"]}),
        "pocket:3",
    ):
        benchmark = open_benchmark(str(spec))
        assert tuple(one.pair for one in benchmark.questions) == benchmark.references.pairs
        ids = [one.reference_id for one in benchmark.questions]
        assert ids == [one for one in benchmark.reference_ids for _ in range(ids.count(one))]
        assert all(one.pair.group_id == f"{one.reference_id}#{one.number}" for one in benchmark.questions)


def test_a_segmenter_makes_the_masks_of_pictures_that_bring_none(tmp_path: Path) -> None:
    folder = plain(tmp_path / "plain", {"fox": ["a fox"], "owl": ["an owl"]})
    mask(folder / "fox.mask.png")
    (tmp_path / "u2net.onnx").write_bytes(b"not read before a mask is made")
    segmenter = SegmenterConfig(model=str(tmp_path / "u2net.onnx"))
    references = open_benchmark(str(folder), segmenter=segmenter).references
    assert isinstance(references, PictureReferences)
    assert references.mask_counts == {"files": 1, "model": 1}
    assert references.model_masks is not None
    assert [item.source.reference_id for item in references.for_the_model()] == ["owl"]


def test_a_subject_that_vanishes_at_the_size_asked_for_is_a_problem(tmp_path: Path) -> None:
    folder = plain(tmp_path, {"fox": ["a fox"]})
    speck = Image.new("L", (20, 16))
    speck.putpixel((9, 9), 255)
    speck.save(folder / "fox.mask.png")
    open_benchmark(str(folder), size_px=16)
    with pytest.raises(ValueError, match="the object vanishes at 2 px: its mask has 1 pixels"):
        open_benchmark(str(folder), size_px=2)


def test_what_is_not_there_is_told_with_the_layouts_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        open_benchmark(str(tmp_path / "nothing"))
    message = str(raised.value)
    assert message.startswith(
        f"there is no file or folder {tmp_path / 'nothing'}; a benchmark is DreamBench++ ("
    )
    assert "metadata.jsonl); a .json list" in message
    assert message.endswith("; or pocket or pocket:24 (24 figures of the embedded world)")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("files", "inside"),
    [
        ([], "it is empty"),
        (["images/object/00.jpg"], "it has images/ and no captions/"),
        (["captions/object/00.txt"], "it has captions/ and no images/"),
        (["fox.txt"], "it holds fox.txt"),
        (["tgt_image/x/0_0.jpg", "text/x/0_0.txt"], "it holds the finished pictures of a system"),
        ([f"{letter}.txt" for letter in "abcdefg"], "it holds a.txt, b.txt, c.txt, d.txt, e.txt and 2 more"),
        ([".hidden.png.txt", "toys/fox.png"], "it holds toys/"),
    ],
)
def test_a_folder_of_no_known_layout_is_told_with_what_is_in_it(
    tmp_path: Path, files: list[str], inside: str
) -> None:
    for file in files:
        text(tmp_path / file, "x")
    with pytest.raises(ValueError) as raised:
        open_benchmark(str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path} is no benchmark: {inside}; a benchmark is DreamBench++")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"rows in a \.jsonl give the folder, .*, and call it metadata\.jsonl"
    ):
        open_benchmark(str(text(tmp_path / "rows.jsonl", "{}")))
    with pytest.raises(ValueError, match=r"fox\.png is no benchmark; a benchmark is"):
        open_benchmark(str(picture(tmp_path / "fox.png")))
    with pytest.raises(ValueError, match="got nothing"):
        open_benchmark(" ")


@pytest.mark.parametrize("limit", ["references", "prompts"])
def test_a_limit_below_one_is_refused(tmp_path: Path, limit: str) -> None:
    folder = finished(tmp_path, "fox.png")
    with pytest.raises(ValueError, match=f"at least 1 of its {limit}, got 0"):
        open_benchmark(str(folder), **{limit: 0})


collections_of_ids = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.sampled_from(["animal", "human", "object"]), max_size=30
)


@given(collections=collections_of_ids, most=st.integers(1, 40))
def test_a_larger_part_holds_every_smaller_one(collections: dict[str, str], most: int) -> None:
    smaller, larger = kept_ids(collections, most), kept_ids(collections, most + 1)
    assert smaller <= larger
    assert len(smaller) == min(most, len(collections))
    assert kept_ids(dict(reversed(collections.items())), most) == smaller
    assert kept_ids(collections, None) == frozenset(collections)


@given(collections=collections_of_ids, most=st.integers(1, 40))
def test_no_collection_gives_two_more_than_another_that_has_some_left(
    collections: dict[str, str], most: int
) -> None:
    kept = kept_ids(collections, most)
    given_by = {name: sum(collections[one] == name for one in kept) for name in collections.values()}
    for name, count in given_by.items():
        if count < list(collections.values()).count(name):
            assert count >= max(given_by.values()) - 1


@pytest.mark.parametrize("reference_id", ["fox", "toys/fox", "ukiyo-e", "fox.v2", "fuchs rot", "狐", "..fox"])
def test_ids_that_can_name_a_file_are_taken(reference_id: str) -> None:
    assert id_problem(reference_id) is None


@pytest.mark.parametrize(
    "reference_id",
    [
        "",
        ".",
        "..",
        "../fox",
        "toys/../fox",
        "/fox",
        "C:/fox",
        "C:fox",
        "a\\b",
        "./fox",
        "a//b",
        "fox/",
        "a\nb",
        "a\0",
    ],
)
def test_ids_that_lead_out_or_have_two_spellings_are_refused(reference_id: str) -> None:
    problem = id_problem(reference_id)
    assert problem is not None
    assert problem.startswith(f"the id {reference_id!r} cannot name a file")


def test_an_id_that_would_be_anothers_mask_is_refused() -> None:
    problem = "the id 'toys/fox.mask' ends as masks' files do; needs one such as 'toys/fox'"
    assert id_problem("toys/fox.mask") == problem


def test_naming_a_benchmark_does_not_import_torch() -> None:
    code = "import sys, divrl_core.evaluation.benchmarks.opening as _; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
