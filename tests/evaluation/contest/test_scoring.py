"""Scores of a contest: each reference prepared once a scorer, nothing scored twice, damage told."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from divrl_core.config import SegmenterConfig
from divrl_core.evaluation.benchmarks.base import Benchmark, names_of
from divrl_core.evaluation.comparison import write_picture
from divrl_core.evaluation.contest.evaluated import PICTURES, read_evaluation, scores_file
from divrl_core.evaluation.contest.records import Place, append_scores, part_file, read_scores
from divrl_core.evaluation.contest.scoring import Scoring, rows_of
from divrl_core.evaluation.contest.shown import Shown
from divrl_core.evaluation.contest.sources import check_scorers
from divrl_core.evaluation.metrics.base import Shot
from divrl_core.pocket.references import PocketReferences
from tests.models.small_segmenters import segformer

from .stand_ins import Counted, alone, benchmark_of, contest_of, hold, lite0, toys

MODELS = ("base", "other")


def scoring(benchmark: Benchmark, output: Path, *, pictures_each: int = 1) -> Scoring:
    shown = Shown(benchmark, 16, output)
    return Scoring(shown=shown, models=MODELS, pictures_each=pictures_each, processes=alone(output))


def draw(benchmark: Benchmark, output: Path, *, pictures_each: int = 1) -> None:
    """A picture of its own grey for every name of every model."""
    for place, model in enumerate(MODELS):
        for number, name in enumerate(names_of(benchmark.questions, pictures_each)):
            grey = ((7 * number + 3 * place) % 256) / 255
            write_picture(output / PICTURES / model / name.file, torch.full((3, 4, 4), grey))


def test_each_of_150_references_is_prepared_once_for_all_models_and_prompts(tmp_path: Path) -> None:
    benchmark = toys(
        *(f"thing-{number:03d}" for number in range(150)), prompts=[f"on floor {n}" for n in range(9)]
    )
    draw(benchmark, tmp_path)
    scorer = Counted()
    scoring(benchmark, tmp_path).score([scorer.waiting()])
    assert scorer.prepared == list(benchmark.reference_ids) and len(scorer.prepared) == 150
    assert len(scorer.scored) == 150 * 9 * len(MODELS)
    again = Counted()
    scoring(benchmark, tmp_path).score([again.waiting()])
    assert not again.prepared and not again.scored


def test_a_stopped_scoring_goes_on_where_it_was(tmp_path: Path) -> None:
    benchmark = toys("ant", "bee", "cat")
    draw(benchmark, tmp_path)
    first, second = Counted(), Counted()
    told: list[tuple[str, str, str]] = []

    def stop_at_three(*names: str) -> None:
        told.append(names)  # type: ignore[arg-type]
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scoring(benchmark, tmp_path).score([first.waiting()], stop_at_three)
    assert told == [("light", "base", "ant"), ("light", "other", "ant"), ("light", "base", "bee")]
    scoring(benchmark, tmp_path).score([second.waiting()])
    assert second.prepared == ["bee", "cat"]
    assert len(first.scored) + len(second.scored) == 3 * 2 * 2


def test_a_row_cut_off_by_a_kill_is_scored_again(tmp_path: Path) -> None:
    benchmark = toys("ant")
    draw(benchmark, tmp_path)
    scoring(benchmark, tmp_path).score([Counted().waiting()])
    file = scores_file(tmp_path, "other")
    whole = read_scores(file)
    file.write_bytes(file.read_bytes()[:-9])
    again = Counted()
    scoring(benchmark, tmp_path).score([again.waiting()])
    assert {name for name, _, _ in again.scored} == {"ant"} and len(again.scored) == 1
    assert set(map(repr, read_scores(file))) == set(map(repr, whole))


def test_a_row_without_its_end_is_scored_again_and_no_row_is_lost(tmp_path: Path) -> None:
    benchmark = toys("ant")
    draw(benchmark, tmp_path)
    scoring(benchmark, tmp_path).score([Counted().waiting()])
    file = scores_file(tmp_path, "other")
    whole = read_scores(file)
    file.write_bytes(file.read_bytes()[:-1])  # all but the end of the line
    again = Counted()
    scoring(benchmark, tmp_path).score([again.waiting(), Counted(name="more").waiting()])
    assert len(again.scored) == 1
    assert {repr(row) for row in whole} <= set(map(repr, read_scores(file)))


@pytest.mark.parametrize(
    "line", ["[1]", '{"reference": "ant", "number": 0, "k": 0, "scorer": "x", "values": []}']
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "base.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"base\.jsonl:1: is no row of scores .*; delete the line"):
        read_scores(file)


def test_a_kill_while_a_larger_set_is_written_leaves_no_value_of_the_smaller(tmp_path: Path) -> None:
    benchmark = toys("ant", prompts=["on a blue floor"])
    draw(benchmark, tmp_path, pictures_each=3)
    file, whole_set = scores_file(tmp_path, "base"), Place(reference_id="ant", number=0, k=None)
    scoring(benchmark, tmp_path, pictures_each=2).score([Counted().waiting()])
    before = file.read_bytes()
    scoring(benchmark, tmp_path, pictures_each=3).score([Counted().waiting()])
    after, rows = file.read_bytes(), {row.place: row.values for row in read_scores(file)}
    for end in range(len(before), len(after)):
        file.write_bytes(after[:end])
        scoring(benchmark, tmp_path, pictures_each=3).score([Counted().waiting()])
        assert {row.place: row.values for row in read_scores(file)} == rows
    assert rows[whole_set]["spread"] > 0


def test_more_pictures_of_a_question_change_the_values_of_its_set(tmp_path: Path) -> None:
    benchmark = toys("ant", prompts=["on a blue floor"])
    draw(benchmark, tmp_path, pictures_each=3)
    scoring(benchmark, tmp_path, pictures_each=1).score([Counted().waiting()])
    scoring(benchmark, tmp_path, pictures_each=3).score([Counted().waiting()])
    rows = {row.place: row.values for row in read_scores(scores_file(tmp_path, "base"))}
    assert rows[Place(reference_id="ant", number=0, k=None)]["spread"] > 0
    assert len(rows) == 4


def test_values_that_do_not_belong_to_the_pictures_are_refused_by_name(tmp_path: Path) -> None:
    benchmark = toys("ant")
    scorer, questions = Counted(), benchmark.questions
    picture = Shown(benchmark, 16, tmp_path).subject("ant").picture
    shots = [Shot(picture=picture, question=question, k=0) for question in questions]
    good = {"brightness": torch.zeros(2), "spread": torch.zeros(2)}
    assert len(list(rows_of(scorer.name, scorer.metrics, questions, shots, good))) == 4
    for name, values, words in (
        ("beauty", torch.zeros(2), "gave beauty, which is none of its metrics"),
        ("spread", torch.zeros(3), "3 values of spread for 2"),
        ("brightness", torch.tensor([0.0, math.inf]), "brightness of a picture is infinite"),
    ):
        with pytest.raises(ValueError, match=words):
            list(rows_of(scorer.name, scorer.metrics, questions, shots, {**good, name: values}))


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    benchmark = toys("ant")
    draw(benchmark, tmp_path)
    (tmp_path / "pictures/other/ant/1_0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"other/ant/1_0\.png: not a picture.*delete it"):
        scoring(benchmark, tmp_path).score([Counted().waiting()])


def test_rows_of_further_processes_are_read_and_gathered(tiny_pipeline: Path, tmp_path: Path) -> None:
    contest = contest_of(tiny_pipeline, scorers=[Counted().waiting()])
    hold(contest, tmp_path)
    file, values = scores_file(tmp_path, "base"), read_evaluation(tmp_path).values
    rows = read_scores(file)
    file.unlink()
    append_scores(file, rows[:3])
    append_scores(part_file(file, 1), rows[3:6])
    append_scores(part_file(file, 10), rows[6:])
    assert read_evaluation(tmp_path).values == values
    again = Counted()
    hold(contest_of(tiny_pipeline, scorers=[again.waiting()]), tmp_path)
    assert not again.scored and [path.name for path in file.parent.glob("*.jsonl")] == ["base.jsonl"]
    assert read_evaluation(tmp_path).values == values


def test_another_scorer_under_the_same_name_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, scorers=[Counted().waiting()]), tmp_path)
    for other, words in (
        (
            replace(Counted().waiting(), asked="light=folder"),
            "light was asked for as light, here as light=folder",
        ),
        (Counted(source="other pixels").waiting(), "light was measured with pixels, here with other pixels"),
    ):
        with pytest.raises(ValueError, match=words):
            hold(contest_of(tiny_pipeline, scorers=[other], pictures_each=3), tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"asked": "light"}'])
def test_a_damaged_note_of_a_scorer_is_named(tiny_pipeline: Path, tmp_path: Path, content: str) -> None:
    hold(contest_of(tiny_pipeline, scorers=[Counted().waiting()]), tmp_path)
    (tmp_path / "scores/scorers/light.json").write_text(content)
    with pytest.raises(ValueError, match=r"light\.json: cannot be read .* delete it with the scores"):
        hold(contest_of(tiny_pipeline, scorers=[Counted().waiting()]), tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"models": [3]}'])
def test_a_damaged_evaluation_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "evaluation.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"evaluation\.json: is no evaluation of this version"):
        read_evaluation(tmp_path)


def test_the_pocket_world_is_measured_by_a_network(tmp_path: Path) -> None:
    benchmark = benchmark_of(PocketReferences(split="held_out", count=2), "pocket world")
    contest = contest_of(
        Path("pocket"), benchmark=benchmark, scorers=[lite0()], size_px=None, pictures_each=1
    )
    assert contest.base.size_px == 128
    hold(contest, tmp_path)
    evaluation = read_evaluation(tmp_path)
    values = evaluation.values["base"]
    assert len(values) == 8 and all(0 <= found["vsm"] <= 1 for found in values.values())
    assert evaluation.cutoff == 0.6 and evaluation.measured[0].metric.name == "vsm"
    assert evaluation.reference(evaluation.questions[0].reference_id).is_file()


def test_pictures_have_masks_where_a_segmenter_finds_the_subject(tiny_pipeline: Path, tmp_path: Path) -> None:
    plain, found, lost = Counted(), Counted(), Counted()
    hold(contest_of(tiny_pipeline, scorers=[plain.waiting()]), tmp_path / "plain")
    for scorer, answer, name in ((found, 1, "found"), (lost, 0, "lost")):
        segmenter = SegmenterConfig(model=str(segformer(tmp_path / f"model-{name}", answer=answer)))
        hold(contest_of(tiny_pipeline, scorers=[scorer.waiting()], segmenter=segmenter), tmp_path / name)
    assert (any(plain.masked), all(found.masked), any(lost.masked)) == (False, True, False)
    assert len(found.masked) == 8
    assert read_evaluation(tmp_path / "plain").masks == "the references' files, none of the pictures"
    assert "the pictures' by" in read_evaluation(tmp_path / "found").masks
    with pytest.raises(ValueError, match="was made with masks"):
        hold(contest_of(tiny_pipeline, scorers=[plain.waiting()]), tmp_path / "found")


def test_scores_of_a_scorer_of_which_nothing_is_kept_are_made_again(tmp_path: Path) -> None:
    benchmark = toys("ant")
    draw(benchmark, tmp_path)
    first, kept, lost = Counted(), Counted(), Counted()
    scoring(benchmark, tmp_path).score([first.waiting()])
    scoring(benchmark, tmp_path).score([kept.waiting()])
    (tmp_path / "scores/scorers/light.json").unlink()
    scoring(benchmark, tmp_path).score([lost.waiting()])
    assert (first.prepared, kept.prepared, lost.prepared) == (["ant"], [], ["ant"])


def test_values_of_another_version_of_a_metric_are_not_mixed_in(tmp_path: Path) -> None:
    benchmark = toys("ant")
    draw(benchmark, tmp_path)
    source = Counted().waiting()
    scoring(benchmark, tmp_path).score([source])
    check_scorers(tmp_path, [source])
    with pytest.raises(
        ValueError, match="light was measured by version 1 of its metrics, here 2; name another"
    ):
        check_scorers(tmp_path, [replace(source, version=2)])
