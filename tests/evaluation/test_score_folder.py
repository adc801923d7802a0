"""A folder of pictures against its references: who belongs to whom, what is measured, what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from divrl_core.evaluation.score import score_folder
from divrl_core.evaluation.score_inputs import read_inputs
from divrl_core.evaluation.score_results import PictureScore, ScoredFolder
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.rewards.score import reference_features, score_images
from divrl_core.training.references import DataProblems


@pytest.fixture(scope="module")
def backbone() -> Lite0Backbone:
    return Lite0Backbone.load()


def figure(colour: str, *, size: tuple[int, int] = (96, 96), tilt: int = 0) -> Image.Image:
    """A body with a head and two legs, which moves to the right by `tilt` px at the top."""
    picture = Image.new("RGB", size, "#c8d4e6")
    draw = ImageDraw.Draw(picture)
    across, down = size[0] / 96, size[1] / 96

    def place(*corners: float) -> list[float]:
        return [corner * (across, down)[index % 2] for index, corner in enumerate(corners)]

    draw.rounded_rectangle(place(28, 36, 68, 74), 12, fill=colour)
    draw.ellipse(place(34 + tilt, 10, 66 + tilt, 42), fill=colour, outline="black", width=2)
    draw.rectangle(place(34, 72, 42, 90), fill="#333333")
    draw.rectangle(place(54, 72, 62, 90), fill="#333333")
    return picture


def mask_of(size: tuple[int, int] = (96, 96)) -> Image.Image:
    mask = Image.new("L", size, 0)
    box = [size[0] * 0.28, size[1] * 0.1, size[0] * 0.72, size[1] * 0.94]
    ImageDraw.Draw(mask).rectangle(box, fill=255)
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two references with masks; two pictures of red by name, one of blue by folder, and a sheet."""
    images, references = tmp_path / "images", tmp_path / "references"
    (images / "blue").mkdir(parents=True)
    references.mkdir()
    for name, colour in (("red", "#c22f2f"), ("blue", "#2f4fc2")):
        figure(colour).save(references / f"{name}.png")
        mask_of().save(references / f"{name}.mask.png")
    figure("#c22f2f").save(images / "red_0.png")
    figure("#2fb04a", tilt=14).save(images / "red_1.png")
    figure("#2f4fc2", tilt=10).save(images / "blue" / "0.png")
    figure("#ffffff").save(images / "sheet.jpg")
    return images, references


def test_pictures_find_their_references_by_name_and_by_folder(folders: tuple[Path, Path]) -> None:
    inputs = read_inputs(*folders)
    assert [(picture.name, picture.reference_id) for picture in inputs.pictures] == [
        ("blue/0.png", "blue"),
        ("red_0.png", "red"),
        ("red_1.png", "red"),
    ]
    assert inputs.references.mask_source == "files"


def test_a_longer_name_wins_over_its_beginning(folders: tuple[Path, Path]) -> None:
    images, references = folders
    figure("#c22f2f").save(references / "red_1.png")
    shown = {picture.name: picture.reference_id for picture in read_inputs(images, references).pictures}
    assert (shown["red_0.png"], shown["red_1.png"]) == ("red", "red_1")


def test_the_scores_are_those_of_the_reward(folders: tuple[Path, Path], backbone: Lite0Backbone) -> None:
    images, references = folders
    result = score_folder(images, references, output=images.parent / "out", backbone=backbone)

    def tensor(path: Path) -> torch.Tensor:
        return (
            torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
        )

    mask = torch.from_numpy(np.array(Image.open(references / "red.mask.png"))) > 127
    settings = backbone.settings.score
    reference = reference_features(backbone.extract(tensor(references / "red.png")), mask, settings)
    pictures = torch.cat([tensor(images / "red_0.png"), tensor(images / "red_1.png")])
    expected = score_images(backbone.extract(pictures), reference, settings)
    red = [score for score in result.scores if score.reference == "red"]
    assert [score.nssm for score in red] == pytest.approx(expected.nssm.tolist(), abs=1e-5)
    assert [score.vsm for score in red] == pytest.approx(expected.vsm.tolist(), abs=1e-5)
    # The copy of the reference is a copy; the green one is neither built nor coloured alike.
    assert (red[0].nssm, red[0].vsm) == pytest.approx((0, 1), abs=1e-3)
    assert red[1].nssm > 0.05 and red[1].vsm < 0.5


def test_csv_sheet_and_table_are_written(folders: tuple[Path, Path], backbone: Lite0Backbone) -> None:
    images, references = folders
    output = images.parent / "out"
    result = score_folder(images, references, output=output, backbone=backbone)
    rows = list(csv.DictReader((output / "scores.csv").open(encoding="utf-8")))
    assert [row["picture"] for row in rows] == ["blue/0.png", "red_0.png", "red_1.png"]
    assert float(rows[1]["vsm"]) == pytest.approx(result.scores[1].vsm, abs=1e-6)
    assert "EfficientNet-Lite0" in rows[0]["backbone"]
    assert float(rows[1]["extent"]) == pytest.approx(1, abs=1e-3)
    assert Image.open(output / "sheet.jpg").width > 300
    assert "masks: files" in str(result) and str(result).count("\n") == 7


def test_a_picture_that_is_not_square_is_compared_with_its_reference_in_that_shape(
    tmp_path: Path, backbone: Lite0Backbone
) -> None:
    figure("#c22f2f", size=(192, 128)).save(tmp_path / "red.png")
    mask_of((192, 128)).save(tmp_path / "red.mask.png")
    figure("#c22f2f", size=(96, 64)).save(tmp_path / "picture.png")
    result = score_folder(
        tmp_path / "picture.png", tmp_path / "red.png", output=tmp_path / "out", backbone=backbone
    )
    assert result.scores[0].nssm < 0.15 and result.scores[0].vsm > 0.9


def test_without_a_mask_the_alpha_channel_or_the_whole_picture_is_taken(tmp_path: Path) -> None:
    figure("#c22f2f").save(tmp_path / "picture.png")
    figure("#c22f2f").save(tmp_path / "plain.png")
    cut_out = figure("#c22f2f").convert("RGBA")
    cut_out.putalpha(mask_of())
    cut_out.save(tmp_path / "cut.png")
    for name, source in (("plain", "whole picture"), ("cut", "alpha")):
        inputs = read_inputs(tmp_path / "picture.png", tmp_path / f"{name}.png")
        assert inputs.references.mask_source == source


def test_everything_wrong_is_named_at_once(folders: tuple[Path, Path]) -> None:
    images, references = folders
    content = (images / "red_0.png").read_bytes()
    (images / "red_0.png").write_bytes(content[: len(content) // 2])
    mask_of((64, 64)).save(references / "blue.mask.png")
    figure("#ffffff").save(images / "rde_2.png")
    (references / "red.mask.png").write_bytes(b"not a picture")
    with pytest.raises(DataProblems) as caught:
        read_inputs(images, references)
    problems = "\n".join(caught.value.lines)
    assert "red_0.png: truncated or damaged" in problems
    assert "blue.mask.png: the mask must be as large as its picture, 96 x 96 px, got 64 x 64 px" in problems
    assert "rde_2.png: no reference in" in problems and "nearest name there is red" in problems
    assert "red.mask.png: not a picture" in problems
    assert len(caught.value.lines) == 4


def test_masks_asked_for_must_be_there(folders: tuple[Path, Path], tmp_path: Path) -> None:
    images, references = folders
    masks = tmp_path / "masks"
    masks.mkdir()
    mask_of().save(masks / "red.png")
    with pytest.raises(DataProblems, match=r"blue.png: no mask of its name in .*masks"):
        read_inputs(images, references, masks)
    with pytest.raises(DataProblems, match="for 2 references; give a folder of masks"):
        read_inputs(images, references, masks / "red.png")


def test_a_mask_that_vanishes_on_the_grid_is_named(
    folders: tuple[Path, Path], backbone: Lite0Backbone
) -> None:
    images, references = folders
    speck = Image.new("L", (96, 96), 0)
    speck.putpixel((40, 40), 255)
    speck.save(references / "red.mask.png")
    with pytest.raises(DataProblems, match="red: the mask covers 0 of the"):
        score_folder(images, references, output=images.parent / "out", backbone=backbone)
    assert not (images.parent / "out").exists()


def test_a_folder_without_pictures_and_a_path_that_is_not_there_are_refused(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    images, references = folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataProblems, match="no pictures in this folder"):
        read_inputs(tmp_path / "empty", references)
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*nowhere"):
        read_inputs(images, tmp_path / "nowhere")


def test_undefined_scores_are_shown_as_such_and_left_out_of_the_means() -> None:
    # VSM .4 and .8 defined: mean .6, standard error .2; one of two above .6.
    scores = [
        PictureScore(
            picture=f"{index}.png",
            reference="fox",
            nssm=0.5,
            vsm=vsm,
            kept_count=3,
            more={"extent": 1.0, "matched": vsm},
        )
        for index, vsm in enumerate((0.4, 0.8, math.nan))
    ]
    result = ScoredFolder(
        scores=tuple(scores),
        backbone="toy",
        mask_source="files",
        consistency_cutoff=0.6,
        files=(Path("a.csv"),),
    )
    assert result.csv().splitlines()[3] == "2.png,fox,0.500000,undefined,3,1.000000,undefined,toy"
    row = str(result).splitlines()[1].split()
    assert result.csv().startswith("picture,reference,nssm,vsm,kept_count,extent,matched,backbone\n")
    assert row == [
        *["fox", "3", "0.500", "±", "0.000", "0.600", "±", "0.200", "1.000", "±", "0.000"],
        "1",
        "0.50",
    ]
