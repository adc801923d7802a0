"""Pairs in folders: two folders matched by stem, a metadata.jsonl, grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from divrl_core.config_cfm import CfmDataConfig
from divrl_core.training.pair_data import open_pairs
from divrl_core.training.pair_set import PanelCut, TrainingPair

from .pair_files import pair_folders, picture, pixels, write_rows


def opened(source: Path, **settings: Any) -> dict[str, tuple[TrainingPair, np.ndarray, np.ndarray]]:
    """Every pair of both sets by its id, with target and reference as bytes (H, W, 3)."""
    data = open_pairs(CfmDataConfig(source=str(source), **settings))
    found: dict[str, tuple[TrainingPair, np.ndarray, np.ndarray]] = {}
    for side in (data.train, data.held_out):
        for pair in side.pairs:
            target, reference = (
                (side.load(name) * 255).round().byte().permute(1, 2, 0).numpy()
                for name in (pair.target_id, pair.reference_id)
            )
            found[pair.pair_id] = (pair, target, reference)
    return found


def test_pictures_of_one_stem_in_two_folders_are_a_pair_with_the_captions_beside_the_target(
    tmp_path: Path,
) -> None:
    for place, (name, other) in enumerate([("fox.PNG", "fox.bmp"), ("owl.1.png", "owl.1.png")]):
        target = picture(tmp_path / "photos" / name, place, size=(8, 6))
        target.with_suffix(".txt").write_bytes("\ufefffirst\r\n second \r\n\r\n".encode())
        picture(tmp_path / "subjects" / other, 10 + place)
    found = opened(tmp_path / "photos", references=str(tmp_path / "subjects"))
    assert sorted(found) == ["fox", "owl.1"]
    for place, name in enumerate(("fox", "owl.1")):
        pair, target_pixels, reference_pixels = found[name]
        assert pair.captions == ("first", "second")
        assert np.array_equal(target_pixels, pixels(place, (8, 6)))
        assert np.array_equal(reference_pixels, pixels(10 + place))


def test_one_folder_that_holds_target_and_reference_says_the_same_as_two_folders(tmp_path: Path) -> None:
    folder = pair_folders(tmp_path, 4)
    (folder / "reference" / "toy-0.txt").write_text("")  # captions are of targets; this one says nothing
    (folder / "target" / "._toy-1.txt").write_bytes(b"\x00\x05")  # what macOS leaves in archives
    (folder / "target" / ".hidden.png").write_bytes(b"")
    inside = opened(folder)
    apart = opened(folder / "target", references=str(folder / "reference"))
    assert sorted(inside) == [f"toy-{place}" for place in range(4)]
    assert {name: pair for name, (pair, *_) in inside.items()} == {
        name: pair for name, (pair, *_) in apart.items()
    }


def test_rows_of_metadata_name_target_reference_captions_and_id(tmp_path: Path) -> None:
    picture(tmp_path / "shots" / "a.png", 0)
    picture(tmp_path / "b.png", 1, caption="from the file\nits second line\n")
    picture(tmp_path / "c.png", 2)
    picture(tmp_path / "d.png", 3)
    write_rows(
        tmp_path,
        {"target": "shots/a.png", "reference": "b.png", "captions": ["one", "  two  words "], "id": 7},
        {"file_name": "b.png", "reference": "./shots/a.png", "licence": "mine", "id": None},
        {"target": "c.png", "reference": "d.png", "caption": "three\nfour\n", "id": "seven"},
    )
    found = opened(tmp_path)
    assert {name: pair.captions for name, (pair, *_) in found.items()} == {
        "7": ("one", "two words"),
        "b.png<shots/a.png": ("from the file", "its second line"),
        "seven": ("three", "four"),
    }
    for name, seeds in {"7": (0, 1), "b.png<shots/a.png": (1, 0), "seven": (2, 3)}.items():
        assert all(np.array_equal(found[name][1 + place], pixels(seed)) for place, seed in enumerate(seeds))


def test_a_two_by_two_grid_gives_its_twelve_ordered_pairs_of_panels_by_hand(tmp_path: Path) -> None:
    # 11 x 9 px with a gap of 1 px both ways: panels of 5 x 4 px.
    for place in range(2):
        picture(
            tmp_path / f"sheet-{place}.png", place, size=(11, 9), caption="a toy\nin four ways\nthree\nx\n"
        )
    found = opened(tmp_path, grid="2x2", grid_gap_px=1)
    whole = pixels(0, (11, 9))
    panels = {
        "0,0": whole[0:4, 0:5],
        "0,1": whole[0:4, 6:11],
        "1,0": whole[5:9, 0:5],
        "1,1": whole[5:9, 6:11],
    }
    captions = dict(zip(panels, ("a toy", "in four ways", "three", "x"), strict=True))
    names = [f"sheet-0[{one}]<sheet-0[{other}]" for one in panels for other in panels if one != other]
    assert len(names) == 12 and len(found) == 24
    for name in names:
        pair, target, reference = found[name]
        one, other = (part[8:11] for part in name.split("<"))
        assert np.array_equal(target, panels[one]) and np.array_equal(reference, panels[other])
        assert pair.captions == (captions[one],)


def test_one_caption_stands_for_all_panels_of_a_grid(tmp_path: Path) -> None:
    for place in range(2):
        picture(tmp_path / f"{place}.png", place, size=(12, 4), caption="a toy\n")
    found = opened(tmp_path, grid="1x3")
    assert len(found) == 2 * 6
    assert {pair.captions for pair, *_ in found.values()} == {("a toy",)}
    assert np.array_equal(found["0[0,2]<0[0,0]"][1], pixels(0, (12, 4))[:, 8:12])


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 3), st.integers(1, 6), st.integers(1, 6))
def test_the_panels_of_a_grid_are_all_of_it_but_the_gaps(
    rows: int, columns: int, gap: int, panel_height: int, panel_width: int
) -> None:
    height, width = rows * panel_height + (rows - 1) * gap, columns * panel_width + (columns - 1) * gap
    seen = np.zeros((height, width), dtype=int)
    for row in range(rows):
        for column in range(columns):
            box = PanelCut(row, column, rows, columns, gap).box(height, width)
            assert box[2:] == (panel_height, panel_width)
            seen[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] += 1
    lines = [
        np.arange(side) % (panel + gap) < panel
        for side, panel in ((height, panel_height), (width, panel_width))
    ]
    assert np.array_equal(seen, np.outer(*lines).astype(int))
    if rows > 1:
        with pytest.raises(ValueError, match="does not divide"):
            PanelCut(0, 0, rows, columns, gap).box(height + 1, width)
