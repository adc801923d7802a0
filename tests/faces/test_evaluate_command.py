"""divrl-train evaluate: words to a contest, one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

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
