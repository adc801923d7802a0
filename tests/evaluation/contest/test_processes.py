"""Contests in real processes: killed, and shared."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from divrl_core.evaluation.contest.evaluated import read_evaluation

from .stand_ins import Counted, contest_of, hold, pictures_in, times_in, toys
from .two_processes import run_code

CODE = """
import os, signal
from pathlib import Path
from tests.evaluation.contest.stand_ins import Counted, contest_of, hold, toys

contest = contest_of(
    Path({pipeline!r}), "base", "best-of-2", benchmark=toys("ant", "bee", "cat"), scorers=[Counted().waiting()]
)
seen = []

def stop(*names):
    seen.append(names)
    if len(seen) == {stop}:
        os.kill(os.getpid(), signal.SIGKILL)

hold(contest, Path({output!r}), on_picture=stop)
"""


def code(pipeline: Path, output: Path, *, stop: int = -1) -> str:
    return CODE.format(pipeline=str(pipeline), output=str(output), stop=stop)


@pytest.fixture(scope="module")
def whole(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same contest in one process, never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    benchmark = toys("ant", "bee", "cat")
    hold(
        contest_of(tiny_pipeline, "base", "best-of-2", benchmark=benchmark, scorers=[Counted().waiting()]),
        folder,
    )
    return folder


def values_of(output: Path) -> str:
    """All values of an evaluation as text, in one order."""
    values = read_evaluation(output).values
    return json.dumps(
        {
            model: sorted((str(place), found) for place, found in rows.items())
            for model, rows in values.items()
        }
    )


def test_a_killed_evaluation_goes_on_without_doing_anything_twice(
    tiny_pipeline: Path, whole: Path, tmp_path: Path
) -> None:
    assert run_code(code(tiny_pipeline, tmp_path, stop=7)) == [-signal.SIGKILL]
    before = times_in(tmp_path)
    assert len(before) == 7
    assert read_evaluation(tmp_path).models[1].evaluations == 4
    assert run_code(code(tiny_pipeline, tmp_path)) == [0]
    after = times_in(tmp_path)
    assert {name: after[name] for name in before} == before
    assert pictures_in(tmp_path) == pictures_in(whole)
    assert values_of(tmp_path) == values_of(whole)


def test_two_processes_make_and_score_the_same_as_one(
    tiny_pipeline: Path, whole: Path, tmp_path: Path
) -> None:
    assert run_code(code(tiny_pipeline, tmp_path), processes=2) == [0, 0]
    assert pictures_in(tmp_path) == pictures_in(whole)
    assert values_of(tmp_path) == values_of(whole)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == [
        "base.jsonl",
        "best-of-2.jsonl",
        "made_with.json",
        "scorers",
    ]
