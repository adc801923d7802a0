"""Pictures of a contest on the tiny pipeline: one noise for all, nothing made twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divrl_core.evaluation.benchmarks.base import PictureName, names_of
from divrl_core.evaluation.contest.evaluated import read_evaluation
from divrl_core.evaluation.contest.pictures import Studio
from divrl_core.evaluation.contest.records import Place

from .stand_ins import Counted, alone, contest_of, hold, pictures_in, pixels, random_lora, times_in, toys


@pytest.fixture(scope="module")
def lora(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_lora(tiny_pipeline, tmp_path_factory.mktemp("lora") / "bent.safetensors")


class Stopped(Exception):
    """What stands for a kill."""


def test_two_models_see_the_same_noise(tiny_pipeline: Path, lora: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, "base", f"still={lora}@0", f"bent={lora}"), tmp_path)
    found = pictures_in(tmp_path)
    assert len(found) == 3 * 2 * 2 * 2
    for name in ("ant/0_0.png", "ant/1_1.png", "bee/0_1.png"):
        assert found[f"base/{name}"] == found[f"still/{name}"] != found[f"bent/{name}"]
    of_base = [content for name, content in found.items() if name.startswith("base/")]
    assert len(set(of_base)) == len(of_base)


def test_a_picture_depends_on_its_name_alone(tiny_pipeline: Path, lora: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, f"bent={lora}", "base", pictures_each=3), tmp_path / "many")
    hold(contest_of(tiny_pipeline, f"bent={lora}", benchmark=toys("bee"), pictures_each=1), tmp_path / "few")
    many = pictures_in(tmp_path / "many")
    assert all(many[name] == content for name, content in pictures_in(tmp_path / "few").items())


def test_best_of_one_and_no_text_noise_are_the_base(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, "base", "best-of-1", "text-noise-0", "text-noise-0.5"), tmp_path)
    found = pictures_in(tmp_path)
    for name in ("ant/0_0.png", "bee/1_1.png"):
        assert found[f"base/{name}"] == found[f"best-of-1/{name}"] == found[f"text-noise-0/{name}"]
        assert found[f"base/{name}"] != found[f"text-noise-0.5/{name}"]


def test_candidates_of_different_pictures_are_different(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, "best-of-3", "base"), tmp_path)
    of_three = {name: data for name, data in pictures_in(tmp_path).items() if name.startswith("best-of-3/")}
    assert len(set(of_three.values())) == len(of_three)


def test_a_stopped_contest_goes_on_without_doing_anything_twice(
    tiny_pipeline: Path, lora: Path, tmp_path: Path
) -> None:
    contest = contest_of(tiny_pipeline, "base", f"bent={lora}")
    hold(contest, tmp_path / "whole")
    made: list[str] = []

    def stop_at_eleven(model: str, name: PictureName) -> None:
        made.append(model)
        if len(made) == 11:
            raise Stopped

    with pytest.raises(Stopped):
        hold(contest, tmp_path / "stopped", on_picture=stop_at_eleven)
    before = times_in(tmp_path / "stopped")
    assert len(before) == 11
    again: list[str] = []
    hold(contest, tmp_path / "stopped", on_picture=lambda model, name: again.append(model))
    assert again == ["bent"] * 5
    after = times_in(tmp_path / "stopped")
    assert {name: after[name] for name in before} == before
    assert pictures_in(tmp_path / "stopped") == pictures_in(tmp_path / "whole")


def test_a_finished_contest_reads_no_model(tiny_pipeline: Path, tmp_path: Path, monkeypatch) -> None:
    hold(contest_of(tiny_pipeline), tmp_path)
    asked: list[object] = []
    monkeypatch.setattr(Studio, "_encoded", lambda *given: asked.append(given))
    hold(contest_of(tiny_pipeline), tmp_path)
    assert not asked


def test_more_pictures_are_added_to_those_that_are_there(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline, benchmark=toys("ant"), pictures_each=1), tmp_path)
    before = times_in(tmp_path)
    hold(contest_of(tiny_pipeline, benchmark=toys("ant", "bee"), pictures_each=2), tmp_path)
    after = times_in(tmp_path)
    assert len(after) == 8 and {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": 3}, "steps 2, here 3"),
        ({"seed": 1}, "seed 0, here 1"),
        ({"guidance": 4.0}, r"guidance 2\.5, here 4\.0"),
        ({"size_px": 48}, "size_px 32, here 48"),
        ({"dtype": "bfloat16"}, "dtype float32, here bfloat16"),
        ({"pictures_each": 1}, "holds 2 pictures of each question, here 1"),
        ({"benchmark": toys("ant")}, "asked bee/0 and 1 more"),
        (
            {"benchmark": toys(prompts=("a toy fox on a red floor",) * 2)},
            "a different ant/0, ant/1, bee/0 and 1",
        ),
    ],
)
def test_a_folder_of_other_settings_is_refused_by_what_differs(
    tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory, finished: Path, changed, words: str
) -> None:
    before = times_in(finished)
    with pytest.raises(ValueError, match=words) as error:
        hold(contest_of(tiny_pipeline, **changed), finished)
    assert "\n" not in str(error.value) and "--output" in str(error.value)
    assert times_in(finished) == before


@pytest.fixture(scope="module")
def finished(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    hold(contest_of(tiny_pipeline), folder)
    return folder


def test_a_lora_trained_anew_under_the_same_name_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    file = random_lora(tiny_pipeline, tmp_path / "x.safetensors")
    hold(contest_of(tiny_pipeline, str(file)), tmp_path / "out")
    file.write_bytes(random_lora(tiny_pipeline, tmp_path / "y.safetensors", settings={"run": 2}).read_bytes())
    with pytest.raises(ValueError, match=r"pictures/x: was made with lora"):
        hold(contest_of(tiny_pipeline, str(file)), tmp_path / "out")


def test_finished_pictures_lie_beside_the_others(tiny_pipeline: Path, tmp_path: Path) -> None:
    hold(contest_of(tiny_pipeline), tmp_path / "first")
    other = tmp_path / "first/pictures/base"
    hold(contest_of(tiny_pipeline, "base", f"other={other}"), tmp_path / "second")
    found = pictures_in(tmp_path / "second")
    assert {n.partition("/")[2]: d for n, d in found.items() if n.startswith("other/")} == {
        n.partition("/")[2]: d for n, d in found.items() if n.startswith("base/")
    }
    (other / "ant/0_1.png").write_bytes((other / "ant/0_0.png").read_bytes())
    with pytest.raises(ValueError, match=r"a different ant/0_1\.png"):
        hold(contest_of(tiny_pipeline, "base", f"other={other}"), tmp_path / "second")


def test_an_evaluation_of_other_systems_alone_needs_no_model(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    for number, name in enumerate(names_of(toys().questions, 2)):
        (theirs / name.file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("P", (20, 30), number).save(theirs / name.file)
    scorer = Counted()
    contest = contest_of(Path("unused"), str(theirs), base=None, size_px=None, scorers=[scorer.waiting()])
    hold(contest, tmp_path / "out")
    evaluation = read_evaluation(tmp_path / "out")
    assert len(scorer.scored) == 8 and evaluation.models[0].evaluations is None
    place = Place(reference_id="bee", number=1, k=1)
    with Image.open(evaluation.picture("theirs", place)) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (20, 30))


def test_the_layout_is_each_models_own(tiny_pipeline: Path, tmp_path: Path) -> None:
    wide = random_lora(tiny_pipeline, tmp_path / "wide.safetensors", layout="width")
    contest = contest_of(tiny_pipeline, "base", f"wide={wide}@0")
    assert contest.asked["base"].layout == "kontext" and contest.asked["wide"].layout == "width"
    hold(contest, tmp_path / "out")
    base, other = (pixels(tmp_path / f"out/pictures/{name}/ant/0_0.png") for name in ("base", "wide"))
    assert not np.array_equal(base, other)
    again = contest_of(tiny_pipeline, f"wide={wide}@0", "base")
    hold(again, tmp_path / "again")
    assert pictures_in(tmp_path / "again") == pictures_in(tmp_path / "out")


def test_the_processes_of_a_run_alone_are_where_they_were_asked_to_be(tmp_path: Path) -> None:
    assert alone(tmp_path).device.type == "cpu"
