"""divrl-train evaluate: words to a contest, one line for every mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from divrl_core.evaluation.blind.answers import Answer, answer_line, answers_file, append_line
from divrl_core.evaluation.blind.server import BlindServer
from divrl_core.evaluation.contest.records import Place
from tests.evaluation.benchmarks.benchmark_files import mask, picture, plain
from tests.evaluation.made_evaluation import make_evaluation
from tests.evaluation.metrics.small_networks import save_dino
from train_cli.main import cli
from train_cli.options import Size, SizeType

SMALL = (
    "--benchmark",
    "pocket:1",
    "--prompts",
    "1",
    "--pictures-each",
    "1",
    "--steps",
    "1",
    "--device",
    "cpu",
)


def call(output: Path, *words: str) -> Result:
    return CliRunner().invoke(
        cli, ["evaluate", *SMALL, "--output", str(output), *words], prog_name="divrl-train"
    )


def test_models_are_compared_from_one_line_and_again_with_nothing_to_do(tmp_path: Path) -> None:
    words = ("--model", "base", "--model", "twin=best-of-1", "--metrics", "backbone", "--size", "64")
    first = call(tmp_path, *words)
    assert first.exit_code == 0, first.output
    told = json.loads((tmp_path / "evaluation.json").read_text())
    assert [model["name"] for model in told["models"]] == ["base", "twin"]
    assert {metric["name"] for metric in told["metrics"]} >= {"vsm", "nssm"}
    files = [path for path in sorted(tmp_path.rglob("*.png")) if "pictures" in path.parts]
    assert len(files) == 2 and files[0].read_bytes() == files[1].read_bytes()
    times = [path.stat().st_mtime_ns for path in files]
    again = call(tmp_path, *words)
    assert again.exit_code == 0 and [path.stat().st_mtime_ns for path in files] == times


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path) -> None:
    result = call(tmp_path / "out", "--model", "best-of-4", "--dry-run")
    assert result.exit_code == 0, result.output
    assert (
        "1 to make: 4 forwards" in result.stdout and "scorer backbone (name lite0): 0 of 1" in result.stdout
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--model", "nowhere"), "--model nowhere: there is no file or folder nowhere"),
        (("--size", "64x48"), "an evaluation's pictures are square, got 64x48"),
        (("--metrics", "beauty"), "no metric 'beauty'"),
        (("--sort-by", "beauty"), "cannot be sorted by beauty: expected one of vsm, "),
        (
            ("--metrics", "truth", "--sort-by", "vsm"),
            "cannot be sorted by vsm: expected one of clean_share",
        ),
        (("--base", "nowhere"), "no folder 'nowhere'"),
        (("--benchmark", "nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    result = call(tmp_path / "out", *words)
    assert result.exit_code == 2 and line in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_size_is_handed_on_as_it_was_given() -> None:
    size = SizeType().convert("768x512", None, None)
    assert size == (512, 768) and str(size) == "768x512" and isinstance(size, Size)


def folder_words(bench: Path, *models: str) -> list[str]:
    words = ["--benchmark", str(bench), "--pictures-each", "1", "--metrics", "backbone", "--size", "64"]
    return [*words, *(word for model in models for word in ("--model", model))]


def test_a_subject_too_small_for_the_backbone_is_named_before_any_picture_is_made(tmp_path: Path) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"], "owl": ["an owl"]})
    picture(bench / "owl.png", size=(200, 200))
    mask(bench / "owl.mask.png", size=(200, 200))  # 8 x 8 px of it
    for more in ((), ("--dry-run",)):
        result = call(tmp_path / "out", *folder_words(bench, "base"), *more)
        assert (
            result.exit_code == 2 and "owl, backbone: the mask covers 0 of the 12 x 12 cells" in result.stderr
        )
        assert not list((tmp_path / "out").rglob("*.png"))


def test_samples_of_a_command_given_again_are_kept_and_those_of_others_refused(tmp_path: Path) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"]})
    picture(tmp_path / "theirs/fox/0_0.png", seed=5, size=(64, 64))
    samples = tmp_path / "samples"
    words = [*folder_words(bench, "theirs=" + str(tmp_path / "theirs")), "--samples", str(samples)]
    target = samples / "theirs/tgt_image/fox/0_0.jpg"
    for _ in range(2):
        result = call(tmp_path / "out", *words)
        assert result.exit_code == 0, result.output
    first = target.stat().st_mtime_ns
    assert call(tmp_path / "other", *words).exit_code == 0 and target.stat().st_mtime_ns == first

    picture(tmp_path / "theirs/fox/0_0.png", seed=6, size=(64, 64))
    result = call(tmp_path / "third", *words)
    line = "samples/theirs: was made with a different fox/0_0.png; name another"
    assert result.exit_code == 2 and line in result.stderr and not list((tmp_path / "third").rglob("*.png"))

    (samples / "theirs/made_with.json").unlink()
    result = call(tmp_path / "third", *words, "--dry-run")
    assert result.exit_code == 2 and "holds files that nothing here made" in result.stderr


def test_samples_grow_with_the_pictures(tmp_path: Path) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"]})
    words = [*folder_words(bench, "base"), "--samples", str(tmp_path / "samples")]
    assert call(tmp_path / "out", *words).exit_code == 0
    result = call(tmp_path / "out", *words, "--pictures-each", "2")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "samples/base/tgt_image/fox").iterdir())
    assert names == ["0_0.jpg", "0_1.jpg"]


def test_weights_in_the_place_of_others_are_noticed_and_another_way_to_them_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"]})
    picture(tmp_path / "theirs/fox/0_0.png", seed=5, size=(64, 64))
    dino = save_dino(tmp_path / "dino")
    words = folder_words(bench, f"theirs={tmp_path / 'theirs'}")
    monkeypatch.chdir(tmp_path)
    for path in (str(dino), "dino"):
        result = call(tmp_path / "out", *words, "--metrics", f"dino={path}")
        assert result.exit_code == 0, result.output
    weights = dino / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    result = call(tmp_path / "out", *words, "--metrics", "dino=dino")
    assert result.exit_code == 2 and "dino was asked for as dino=dino (" in result.stderr


@pytest.mark.parametrize(
    ("samples", "line"),
    [
        ("out/pictures", "base lies among the evaluation's own files; name another folder, such as "),
        ("out/scores/mine", "base lies among the evaluation's own files"),
        ("file", "file is a file; name a folder"),
        ("file/samples", "file is a file; name a folder"),
        ("", "base would take the place of the evaluation in "),
    ],
)
def test_samples_in_the_place_of_something_else_are_refused(tmp_path: Path, samples: str, line: str) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"]})
    (tmp_path / "file").write_text("mine")
    name = "base" if not samples else "out"
    words = [*folder_words(bench, "base"), "--samples", str(tmp_path / samples)]
    result = call(tmp_path / name, *words)
    assert result.exit_code == 2 and line in result.stderr, result.output
    assert not (tmp_path / name).exists() and (tmp_path / "file").read_text() == "mine"


def test_samples_do_not_take_pictures_that_lie_there_for_their_own(tmp_path: Path) -> None:
    bench = plain(tmp_path / "bench", {"fox": ["a fox"]})
    words = folder_words(bench, "base")
    assert call(tmp_path / "out", *words, "--samples", str(tmp_path / "out/samples")).exit_code == 0
    result = call(tmp_path / "second", *words, "--samples", str(tmp_path / "out/pictures"))
    assert result.exit_code == 2 and "kind made, here samples of made pictures" in result.stderr
    assert (tmp_path / "out/pictures/base/fox/0_0.png").is_file()


def test_a_metric_whose_model_cannot_be_had_is_told_before_any_picture_is_made(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads where it may go once, when it is imported."""
    command = [sys.executable, "-m", "train_cli", "evaluate", *SMALL, "--output", str(tmp_path / "out")]
    ran = subprocess.run(
        [*command, "--metrics", "backbone,clip"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert ran.returncode == 2 and "name its folder: clip=FOLDER" in ran.stderr
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--blind", "--dry-run"), "--dry-run says nothing with --blind, which makes nothing; leave it out"),
        (("--blind", "--steps", "2"), "--steps says nothing with --blind"),
        (("--judge", "ann", "--port", "0"), "--judge, --port says nothing without --blind; leave it out"),
    ],
)
def test_an_option_of_the_other_mode_is_refused(tmp_path: Path, words: tuple[str, ...], line: str) -> None:
    command = ["evaluate", "--output", str(tmp_path / "out"), *words]
    result = CliRunner().invoke(cli, command, prog_name="divrl-train")
    assert result.exit_code == 2 and line in result.stderr and not (tmp_path / "out").exists()


def test_what_came_of_judging_blind_is_told_to_those_alone_who_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: BlindServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlindServer, "serve_forever", stopped)
    evaluation = make_evaluation(tmp_path, models=("base", "better"), references=3, size_px=16)
    place = Place(reference_id=evaluation.questions[0].reference_id, number=0, k=0)
    file = answers_file(tmp_path, "ann")
    append_line(
        file, answer_line(Answer(left="base", right="better", place=place, answer="left", seconds=1.0))
    )
    command = ["evaluate", "--output", str(tmp_path), "--blind", "--judge", "ann"]
    told = CliRunner().invoke(cli, command, prog_name="divrl-train")
    assert told.exit_code == 0 and "1 pairs of ann are kept" in told.stdout and "better" not in told.stdout
    append_line(file, {"ended": True})
    assert "better against base" in CliRunner().invoke(cli, command, prog_name="divrl-train").stdout
