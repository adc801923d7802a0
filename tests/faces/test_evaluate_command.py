"""divrl-train evaluate: words to a contest, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.evaluation.benchmarks.benchmark_files import mask, picture, plain
from tests.evaluation.metrics.small_networks import save_dino
from train_cli.main import cli
from train_cli.options import Size, SizeType

pytest.importorskip("divrl_core.evaluation.benchmarks.opening")
pytest.importorskip("divrl_core.evaluation.metrics.registry")

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
            ("--metrics", "artefacts", "--sort-by", "vsm"),
            "cannot be sorted by vsm: expected one of detail_change",
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
