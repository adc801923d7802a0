"""`--segmenter` on the commands that take a mask: the model's masks, and words for what cannot be."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image, ImageDraw

from tests.models.small_segmenters import onnx_file, segformer
from train_cli.main import cli


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A reference with a red body on green, its mask as a file elsewhere, and a picture to score."""
    for name, left in (("fox", 24), ("fox_1", 40)):
        picture = Image.new("RGB", (96, 64), (0, 200, 60))
        draw = ImageDraw.Draw(picture)
        draw.rectangle([left, 8, left + 31, 55], fill=(255, 30, 60))
        draw.ellipse([left + 8, 16, left + 20, 28], fill=(255, 240, 0))
        folder = tmp_path / ("references" if name == "fox" else "images")
        folder.mkdir()
        picture.save(folder / f"{name}.png")
    red = np.asarray(Image.open(tmp_path / "references" / "fox.png"))[..., 0]
    Image.fromarray((red > 127).astype(np.uint8) * 255).save(tmp_path / "mask.png")
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def score(pictures: Path, name: str, *words: object) -> tuple[str, dict[str, str]]:
    given = ["--images", pictures / "images", "--references", pictures / "references"]
    result = run("score", *given, "--output", pictures / name, *words)
    assert result.exit_code == 0, result.output
    (row,) = csv.DictReader((pictures / name / "scores.csv").open())
    return result.output, row


def test_scores_with_a_model_s_mask_are_those_with_the_same_mask_from_a_file(pictures: Path) -> None:
    pytest.importorskip("onnxruntime")
    model = onnx_file(pictures / "red.onnx", sides=(64, 96))
    options = ["--segmenter", model, "--segmenter-normalisation", "none"]
    said, by_model = score(pictures, "by-model", *options)
    _, by_file = score(pictures, "by-file", "--mask", pictures / "mask.png")
    _, whole = score(pictures, "whole")
    assert by_model == by_file != whole
    assert "masks: model" in said
    both, chosen = score(pictures, "both", "--mask", pictures / "mask.png", *options)
    assert "masks: files" in both and chosen == by_file


def test_a_picture_without_a_subject_and_a_dry_run_are_told(pictures: Path) -> None:
    nothing = segformer(pictures / "nothing", answer=0)
    given = ["--images", pictures / "images", "--references", pictures / "references"]
    result = run("score", *given, "--output", pictures / "out", "--segmenter", nothing)
    assert result.exit_code == 2 and "fox.png" in result.output
    assert f"{nothing} found no subject in it: give it a mask" in result.output
    dry = run("score", *given, "--segmenter", nothing, "--dry-run")
    assert dry.exit_code == 0 and "masks: model" in dry.output
    wrong = run("score", *given, "--segmenter", nothing, "--segmenter-labels", "wolf", "--dry-run")
    assert (
        wrong.exit_code == 2
        and "'wolf' is none of its classes; it knows background, cat, dog" in wrong.output
    )


def test_sample_frames_by_the_model_s_mask(pictures: Path, tiny_pipeline: Path) -> None:
    dog = segformer(pictures / "dog", answer=2)
    words = [
        "sample",
        "--model",
        tiny_pipeline,
        "--reference",
        pictures / "references" / "fox.png",
        "--prompt",
        "a fox",
    ]
    words += [
        "--steps",
        1,
        "--seeds",
        0,
        "--output",
        pictures / "sample",
        "--device",
        "cpu",
        "--segmenter",
        dog,
    ]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert f"the mask is made by {dog}" in result.output
    dry = run(*words, "--dry-run")
    assert f"mask: its alpha channel, else made by {dog}" in dry.output
    missing = run(*words[:-1], pictures / "gone")
    assert missing.exit_code == 2 and "gone: no such folder" in missing.output
    assert "Traceback" not in missing.output


def test_mistakes_name_the_option(pictures: Path) -> None:
    given = ["--images", pictures / "images", "--references", pictures / "references"]
    labels = run("score", *given, "--segmenter-labels", "dog")
    assert labels.exit_code == 2 and "--segmenter-labels says nothing without --segmenter" in labels.output
    threshold = run("score", *given, "--segmenter", "x.onnx", "--segmenter-threshold", "1")
    assert threshold.exit_code == 2 and "--segmenter-threshold" in threshold.output
    gone = run("score", *given, "--segmenter", pictures / "gone.onnx")
    assert gone.exit_code == 2 and "gone.onnx: there is no such .onnx file" in gone.output
