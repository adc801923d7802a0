"""What is trained on and what is held out: no subject on both sides, whatever the pairs come from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from divrl_core.config_cfm import CfmDataConfig
from divrl_core.pocket.training_pairs import PocketPairs
from divrl_core.training.pair_data import CfmData, open_pairs
from divrl_core.training.pair_set import PairSet, TrainingPair, split_off, subjects

from .pair_files import pair_folders, picture, problems_of, write_rows

Link = tuple[int, int]
"""The pictures of a pair: target and reference."""


def pairs_of(links: list[Link]) -> list[TrainingPair]:
    return [
        TrainingPair(f"pair {place}", str(target), str(reference), ("x",))
        for place, (target, reference) in enumerate(links)
    ]


def same(name: str) -> str:
    return name


def islands(links: list[Link]) -> set[frozenset[int]]:
    """Sets of pictures that pairs join, found by flooding: the slow way."""
    left, found = {picture for link in links for picture in link}, set()
    while left:
        island, grows = {min(left)}, True
        while grows:
            joined = {picture for link in links if island & set(link) for picture in link}
            grows, island = not joined <= island, island | joined
        left -= island
        found.add(frozenset(island))
    return found


LINKS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40)


@given(LINKS)
def test_pairs_that_share_a_picture_show_one_subject_however_long_the_chain(links: list[Link]) -> None:
    groups = subjects(pairs_of(links), same)
    assert sorted(pair.pair_id for group in groups for pair in group) == sorted(
        pair.pair_id for pair in pairs_of(links)
    )
    pictures = [frozenset(number for pair in group for number in _numbers(pair)) for group in groups]
    assert len(pictures) == len(set(pictures)) and set(pictures) == islands(links)


@given(LINKS, st.integers(1, 12), st.randoms(use_true_random=False))
def test_whole_subjects_are_held_out_at_most_a_quarter_whatever_the_order(
    links: list[Link], count: int, random: Any
) -> None:
    pairs, groups = pairs_of(links), islands(links)
    if len(groups) < 2:
        with pytest.raises(ValueError, match=f"at least 2 subjects that share no picture, got {len(groups)}"):
            split_off(pairs, count, same)
        return
    apart = split_off(pairs, count, same)
    shown = [
        {number for pair in pairs if (pair.pair_id in apart) is side for number in _numbers(pair)}
        for side in (True, False)
    ]
    assert shown[0] and shown[1] and not shown[0] & shown[1]
    taken = [group for group in groups if group <= shown[0]]
    assert len(taken) <= max(1, len(groups) // 4)
    sizes = [sum(set(_numbers(pair)) <= group for pair in pairs) for group in taken]
    assert sum(sizes) == len(apart)
    assert len(apart) >= count or len(taken) == max(1, len(groups) // 4)
    assert len(apart) - max(sizes) < count  # no subject more than was needed
    random.shuffle(pairs)
    assert split_off(pairs, count, same) == apart


def _pictures(pair: TrainingPair) -> tuple[str, str]:
    return pair.target_id, pair.reference_id


def _numbers(pair: TrainingPair) -> tuple[int, int]:
    return int(pair.target_id), int(pair.reference_id)


def ids(side: PairSet) -> set[str]:
    return {pair.pair_id for pair in side.pairs}


def digests(side: PairSet) -> set[str]:
    return {side.facts(name).digest for pair in side.pairs for name in _pictures(pair)}


def copied_references(folder: Path, count: int) -> list[dict[str, str]]:
    """Rows of two pairs a subject, joined by nothing but the pixels of two files."""
    rows = []
    for place in range(count):
        for part in "ab":
            picture(folder / f"{place}{part}.png", 10 * place + ord(part))
            rows.append({"target": f"{place}{part}.png", "reference": f"{place}{part}.bmp", "caption": "x"})
            picture(folder / f"{place}{part}.bmp", 10 * place + 5)
    return [{**row, "id": row["target"][:-4]} for row in rows]


def test_files_with_the_same_pixels_stay_on_one_side(tmp_path: Path) -> None:
    rows = copied_references(tmp_path, 9)
    write_rows(tmp_path, *rows)
    config = CfmDataConfig(source=str(tmp_path), held_out_pairs=3)
    data = open_pairs(config)
    # A quarter of nine subjects is two, and three pairs need both: fourteen are left, three of four are validated.
    assert (len(data.train.pairs), len(data.held_out.pairs)) == (14, 3)
    assert not digests(data.train) & digests(data.held_out)
    trained = {name[0] for name in ids(data.train)}
    assert len(trained) == 7 and ids(data.train) == {f"{name}{part}" for name in trained for part in "ab"}
    assert not trained & {name[0] for name in ids(data.held_out)}
    write_rows(tmp_path, *rows[::-1])
    again = open_pairs(config, seed=7)
    assert ids(again.train) == ids(data.train)
    assert ids(again.held_out) < {row["id"] for row in rows} - ids(data.train)


def test_the_pairs_of_one_grid_stay_on_one_side(tmp_path: Path) -> None:
    for place in range(9):
        picture(tmp_path / f"{place}.png", place, size=(4, 4), caption="a toy\n")
    for count, grids, validated in (
        (1, 1, 1),
        (12, 1, 12),
        (13, 2, 13),
        (64, 2, 24),
    ):  # a quarter of nine is two
        data = open_pairs(CfmDataConfig(source=str(tmp_path), grid="2x2", held_out_pairs=count))
        assert (len(data.train.pairs), len(data.held_out.pairs)) == (12 * (9 - grids), validated)
        sheets = [{name[0] for name in ids(side)} for side in (data.train, data.held_out)]
        assert len(sheets[0]) == 9 - grids and not sheets[0] & sheets[1]
        assert not digests(data.train) & digests(data.held_out)


def test_one_subject_cannot_be_split(tmp_path: Path) -> None:
    picture(tmp_path / "sheet.png", 0, size=(4, 4), caption="a toy\n")
    (line,) = problems_of(tmp_path, grid="2x2")
    assert line.startswith(
        f"{tmp_path}: pairs to hold out need at least 2 subjects that share no picture, got 1"
    )
    assert "data.held_out" in line


def test_a_held_out_folder_is_validated_on_up_to_the_number_asked_for_and_none_of_the_source(
    tmp_path: Path,
) -> None:
    source = pair_folders(tmp_path / "train", 5)
    for place in range(3):
        picture(tmp_path / "other" / "target" / f"new-{place}.png", 50 + place, caption="new\n")
        picture(tmp_path / "other" / "reference" / f"new-{place}.png", 60 + place)
    data = open_pairs(
        CfmDataConfig(
            source=str(source / "target"),
            references=str(source / "reference"),  # the source's alone
            held_out=str(tmp_path / "other"),
            held_out_pairs=2,
        )
    )
    assert len(data.train.pairs) == 5 and ids(data.held_out) == {"new-0", "new-1"}


def test_a_picture_that_is_trained_on_and_held_out_is_an_error(tmp_path: Path) -> None:
    source, other = pair_folders(tmp_path / "train", 3), pair_folders(tmp_path / "other", 1)
    shutil.copy(source / "target" / "toy-2.png", other / "reference" / "toy-0.png")
    picture(other / "target" / "toy-0.png", 70)
    (line,) = problems_of(source, held_out=str(other))
    assert line == f"{other}: reference/toy-0 is the same picture as target/toy-2 of {source}"


def test_the_pocket_world_may_stand_on_either_side(tmp_path: Path) -> None:
    folder = str(pair_folders(tmp_path, 3))
    data = open_pairs(CfmDataConfig(source=folder, held_out="pocket", held_out_pairs=8))
    assert len(data.train.pairs) == 3 and len(data.held_out.pairs) == 8
    data = open_pairs(CfmDataConfig(source="pocket", held_out=folder, pocket_subjects=2))
    assert len(data.train.pairs) == 24 and ids(data.held_out) == {"toy-0", "toy-1", "toy-2"}


def pocket(seed: int = 0, **settings: Any) -> CfmData:
    return open_pairs(CfmDataConfig(pocket_subjects=3, held_out_pairs=8, **settings), seed=seed)


def test_a_pocket_figure_gives_twelve_pairs_to_train_on_and_four_to_hold_out() -> None:
    data = pocket()
    assert len(data.train.pairs) == 3 * 12 and len(data.held_out.pairs) == 2 * 4
    for side in (data.train, data.held_out):
        assert len(ids(side)) == len(side.pairs)
        for pair in side.pairs:
            (one, view), (other, beside) = (name.rsplit(".", 1) for name in _pictures(pair))
            assert one == other and view != beside
            assert pair.pair_id == f"{pair.target_id}<{pair.reference_id}"
    targets = [pair.target_id for pair in data.held_out.pairs[:4]]
    assert sorted(targets) == [f"held_out-0000.{view}" for view in range(4)]
    assert len({frozenset(_pictures(pair)) for pair in data.train.pairs}) == 3 * 6  # each pair both ways


def test_a_pocket_pair_tells_of_its_target_and_never_of_its_reference() -> None:
    train = PocketPairs(split="train", subjects=8)
    captions = {pair.target_id: pair.captions for pair in train.pairs}
    assert all(pair.captions == captions[pair.target_id] and len(pair.captions) == 1 for pair in train.pairs)
    differ = [pair for pair in train.pairs if captions[pair.reference_id] != pair.captions]
    assert len(differ) > len(train.pairs) // 2  # another floor, more often than not
    for pair in train.pairs:
        view = train._views(int(pair.target_id[6:10]))[int(pair.target_id[-1])]
        assert pair.captions == (view.prompt,)
        assert view.background in view.prompt


def test_held_out_pocket_figures_have_palettes_that_no_training_set_shows() -> None:
    def palettes(side: PocketPairs) -> set[tuple[str, str, str]]:
        figures = [side._views(number)[0].identity for number in range(side.subjects)]
        assert all(figure.is_held_out == (side.split == "held_out") for figure in figures)
        return {(figure.plan, figure.primary, figure.secondary) for figure in figures}

    shown = [palettes(PocketPairs(split="train", subjects=40, seed=seed)) for seed in range(3)]
    assert shown[0] != shown[1]
    assert not set().union(*shown) & palettes(PocketPairs(split="held_out", subjects=40))


def test_the_seed_changes_the_pocket_figures_trained_on_and_never_those_held_out() -> None:
    one, again, other = pocket(), pocket(), pocket(seed=1)
    name = one.train.pairs[0].target_id
    assert one.train.load(name).equal(again.train.load(name))
    assert not one.train.load(name).equal(other.train.load(name))
    assert one.train.facts(name) == again.train.facts(name) != other.train.facts(name)
    assert one.held_out.pairs == other.held_out.pairs
    name = one.held_out.pairs[0].target_id
    assert one.held_out.facts(name) == other.held_out.facts(name)
    assert one.held_out.load(name).equal(other.held_out.load(name))


def test_the_facts_of_pocket_pictures_are_those_of_what_is_loaded() -> None:
    data = pocket()
    for side in (data.train, data.held_out):
        names = sorted({name for pair in side.pairs for name in _pictures(pair)})[:5]
        for name in names:
            image, facts = side.load(name), side.facts(name)
            assert image.shape == (3, facts.height, facts.width)
            assert image.min() >= 0 and 0.2 < image.max() <= 1
        loaded = [side.load(name) for name in names]
        assert all(not loaded[0].equal(image) for image in loaded[1:])
    assert not digests(data.train) & digests(data.held_out)
    assert len(digests(data.train)) == 12 and len(digests(data.held_out)) == 8


@pytest.mark.parametrize("grid", ["1x1", "2", "0x2", "2x", "2 x 2", "x", "100x1", "2X2", "-1x2"])
def test_settings_refuse_a_grid_that_is_none(grid: str) -> None:
    with pytest.raises(ValueError, match=r"data\.grid must be ROWSxCOLUMNS with two panels or more"):
        CfmDataConfig(grid=grid)


def test_settings_refuse_references_beside_a_grid() -> None:
    with pytest.raises(ValueError, match=r"data\.grid and data\.references exclude each other"):
        CfmDataConfig(grid="2x2", references="somewhere")
    shapes = [CfmDataConfig(grid=grid).grid_shape for grid in (None, "2x2", "1x12")]
    assert shapes == [None, (2, 2), (1, 12)]
