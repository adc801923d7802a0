"""What an evaluation would do, told without doing it."""

from __future__ import annotations

from pathlib import Path

import pytest

from divrl_core.evaluation.contest.dry_run import contest_lines

from .stand_ins import Counted, contest_of, hold


def lines(pipeline: Path, output: Path, **settings) -> str:
    models = ("base", "best-of-3")
    contest = contest_of(pipeline, *models, scorers=[Counted().waiting()], **settings)
    return "\n".join(contest_lines(contest, output))


def test_pictures_forwards_and_scores_are_told(tiny_pipeline: Path, tmp_path: Path) -> None:
    told = lines(tiny_pipeline, tmp_path / "out")
    assert "0 of 8 pictures there, 8 to make: 16 forwards" in told
    assert "0 of 8 pictures there, 8 to make: 48 forwards" in told
    assert "memory: " in told and "scorer light: 0 of 16 pictures scored" in told
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_told_and_checked(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, scorers=[Counted().waiting()]), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    told = lines(tiny_pipeline, tmp_path)
    assert "8 of 8 pictures there, 0 to make: 0 forwards" in told and "light: 8 of 16 pictures scored" in told
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    with pytest.raises(ValueError, match="steps 2, here 5"):
        lines(tiny_pipeline, tmp_path, steps=5)


def test_a_folder_of_strange_pictures_is_told_without_an_evaluation_in_it(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    (tmp_path / "pictures/base/ant").mkdir(parents=True)
    (tmp_path / "pictures/base/ant/0_0.png").write_bytes(b"somebody's")
    with pytest.raises(ValueError, match=r"base: holds files that nothing here made \(no made_with.json\)"):
        lines(tiny_pipeline, tmp_path)
