"""Pictures written for DreamBench++'s own scripts: what these look for is there, and is read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.base import Benchmark, PictureName, names_of
from divrl_core.evaluation.benchmarks.dreambench_samples import write_samples
from divrl_core.evaluation.benchmarks.finished import find_finished
from divrl_core.evaluation.benchmarks.opening import open_benchmark

from .benchmark_files import NINE, dreambench, picture, plain

KITTEN = "live_subject_animal_00_kitten"


@pytest.fixture
def benchmark(tmp_path: Path) -> Benchmark:
    collections = {"live_subject/animal/00": "kitten", "object/00": "piggy bank"}
    return open_benchmark(str(dreambench(tmp_path / "bench", collections)))


def pictures_for(benchmark: Benchmark, folder: Path, each: int) -> dict[PictureName, Path]:
    names = names_of(benchmark.questions, each)
    return {name: picture(folder / name.file, seed=seed, size=(16, 16)) for seed, name in enumerate(names)}


def names_below(folder: Path) -> list[str]:
    """As its scripts compare folders: sorted paths below, up to their first dot."""
    return [
        path.relative_to(folder).as_posix().split(".")[0] for path in sorted(folder.rglob("*.*"), key=str)
    ]


def test_the_three_folders_hold_the_same_names(benchmark: Benchmark, tmp_path: Path) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 2)
    folder = write_samples(pictures, benchmark, "divrl_seed0", tmp_path / "samples")
    assert folder == tmp_path / "samples" / "divrl_seed0"
    expected = sorted(f"{name.reference_id}/{name.number}_{name.k}" for name in pictures)
    for part in ("src_image", "text", "tgt_image"):
        assert names_below(folder / part) == expected
    assert (folder / "negative_prompt.txt").read_text() == ""
    assert not list((tmp_path / "samples").glob("*.tmp"))


def test_every_file_is_where_the_scripts_open_it_by_name(benchmark: Benchmark, tmp_path: Path) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 1)
    folder = write_samples(pictures, benchmark, "divrl", tmp_path)
    for number, prompt in enumerate(NINE):
        assert (folder / f"text/{KITTEN}/{number}_0.txt").read_text(encoding="utf-8") == prompt
        with Image.open(folder / f"src_image/{KITTEN}/{number}_0.jpg") as source:
            assert (source.format, source.size) == ("JPEG", (20, 16))
        with Image.open(folder / f"tgt_image/{KITTEN}/{number}_0.jpg") as target:
            assert (target.format, target.mode, target.size) == ("JPEG", "RGB", (16, 16))


def test_pictures_keep_their_colours_but_for_the_rounding_of_jpeg(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 1)
    folder = write_samples(pictures, benchmark, "divrl", tmp_path)
    name = next(iter(pictures))
    written = np.asarray(Image.open(folder / "tgt_image" / name.file.with_suffix(".jpg")), dtype=float)
    assert np.abs(written - np.asarray(Image.open(pictures[name]))).mean() < 4  # of noise, JPEG's worst case


def test_what_is_written_is_read_back_as_finished_pictures(benchmark: Benchmark, tmp_path: Path) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 2)
    folder = write_samples(pictures, benchmark, "divrl", tmp_path)
    found = find_finished(folder, benchmark.questions, pictures_each=2)
    assert list(found.pictures) == list(pictures)


def test_pictures_of_an_evaluation_are_found_by_its_own_layout(benchmark: Benchmark, tmp_path: Path) -> None:
    pictures = pictures_for(benchmark, tmp_path / "pictures" / "base", 1)
    assert find_finished(tmp_path / "pictures" / "base", benchmark.questions).pictures == pictures


def test_samples_take_the_place_of_older_ones_whole(benchmark: Benchmark, tmp_path: Path) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 2)
    write_samples(pictures, benchmark, "divrl", tmp_path)
    fewer = {name: path for name, path in pictures.items() if name.k == 0}
    folder = write_samples(
        fewer, benchmark, "divrl", tmp_path, finish=lambda home: (home / "note.json").touch()
    )
    assert (folder / "note.json").is_file()
    assert list(find_finished(folder, benchmark.questions).pictures) == list(fewer)


@pytest.mark.parametrize("method", ["", "..", "a/b", "/tmp/x", "a\\b"])
def test_a_method_that_is_no_folders_name_is_refused(
    benchmark: Benchmark, tmp_path: Path, method: str
) -> None:
    with pytest.raises(ValueError, match="the method names one folder in"):
        write_samples({}, benchmark, method, tmp_path)


def test_pictures_of_other_questions_and_none_at_all_are_refused(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    other = {PictureName(reference_id="fox", number=0, k=0): picture(tmp_path / "fox.png")}
    with pytest.raises(
        ValueError, match=r"DreamBench\+\+'s questions, got 1 of other questions, such as fox/0_0.png"
    ):
        write_samples(other, benchmark, "divrl", tmp_path)
    with pytest.raises(ValueError, match="got none"):
        write_samples({}, benchmark, "divrl", tmp_path)
    assert not (tmp_path / "divrl").exists()


def test_an_unreadable_picture_leaves_no_folder_that_looks_complete(
    benchmark: Benchmark, tmp_path: Path
) -> None:
    pictures = pictures_for(benchmark, tmp_path / "ours", 1)
    last = list(pictures.values())[-1]
    last.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=f"{last}: not a picture"):
        write_samples(pictures, benchmark, "divrl", tmp_path / "samples")
    assert not (tmp_path / "samples" / "divrl").exists()
    picture(last)
    write_samples(pictures, benchmark, "divrl", tmp_path / "samples")


def test_any_benchmark_of_picture_files_can_be_written_and_no_other(tmp_path: Path) -> None:
    folder = plain(tmp_path / "plain", {"fox": ["a fox"]})
    ours = {PictureName(reference_id="fox", number=0, k=0): picture(tmp_path / "fox.png")}
    written = write_samples(ours, open_benchmark(str(folder)), "divrl", tmp_path)
    assert (written / "tgt_image/fox/0_0.jpg").is_file()
    pocket = open_benchmark("pocket:1", prompts=1)
    ours = {names_of(pocket.questions, 1)[0]: picture(tmp_path / "fox.png")}
    with pytest.raises(ValueError, match="those of pocket world are no picture files"):
        write_samples(ours, pocket, "pocket", tmp_path)
