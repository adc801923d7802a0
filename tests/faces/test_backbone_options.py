"""--backbone and --backbone-path of score, and plans with backbones that are not there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tests.models.small_vision import save_model
from train_cli.main import cli


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="divrl-train")


@pytest.fixture
def score(tmp_path: Path) -> tuple[str, ...]:
    """The words that score a picture against itself and against another."""
    (tmp_path / "images").mkdir()
    for name in ("fox_0", "fox_1"):
        pixels = np.random.default_rng(len(name) + int(name[-1])).integers(
            0, 255, (64, 64, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(tmp_path / "images" / f"{name}.png")
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[8:56, 8:56] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    reference = tmp_path / "images" / "fox_0.png"
    return (
        *("score", "--images", str(tmp_path / "images"), "--reference", str(reference)),
        *("--mask", str(tmp_path / "mask.png"), "--output", str(tmp_path / "out")),
    )


def test_score_measures_with_the_backbone_it_is_told(score: tuple[str, ...], tmp_path: Path) -> None:
    folder = save_model("siglip vision", tmp_path / "small-siglip")
    words = (*score, "--backbone", "siglip", "--backbone-path", str(folder))
    assert "backbone: siglip, at least 2 passes" in call(*words, "--dry-run").stdout
    result = call(*words)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open(encoding="utf-8")))
    assert all(row["backbone"].startswith("SiglipVisionModel (small-siglip)") for row in rows)
    assert float(rows[0]["nssm"]) == pytest.approx(0, abs=1e-4) and float(rows[1]["nssm"]) > 0.01


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backbone", "dinov3"), "'dinov3' is not one of 'lite0', 'lite2', 'pocket'"),
        (("--backbone-path", "a/b"), "say nothing with reward.backbone.name=lite0"),
        (("--backbone", "transformers"), "needs reward.backbone.path"),
        (("--backbone", "clip", "--backbone-path", "./no/such/folder"), "no folder './no/such/folder'"),
    ],
)
@pytest.mark.parametrize("also", [(), ("--dry-run",)])
def test_a_backbone_that_cannot_be_is_one_line(
    score: tuple[str, ...], words: tuple[str, ...], said: str, also: tuple[str, ...]
) -> None:
    result = call(*score, *words, *also)
    assert result.exit_code == 2
    assert said in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize(("name", "memory"), [("dinov2", "0.32"), ("clip", "1.13"), ("siglip", "0.35")])
def test_a_run_with_published_weights_is_planned_without_them(name: str, memory: str) -> None:
    # parameters of float32: 86.6, 304.0 and 93.2 million
    result = call("plan", "explore", "--preset", "24gb", "--set", f"reward.backbone.name={name}")
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if "reward backbone" in line]
    assert memory in line and line.endswith(name)


def test_a_run_with_a_folder_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    settings = ("reward.backbone.name=dinov2", f"reward.backbone.path={tmp_path / 'nothing'}")
    chosen = [word for setting in settings for word in ("--set", setting)]
    result = call("explore", "--output", str(tmp_path / "run"), *chosen, "--dry-run")
    assert result.exit_code == 2
    assert "1 problem found before loading anything" in result.stderr
    assert f"backbone dinov2: no folder '{tmp_path / 'nothing'}'" in result.stderr
