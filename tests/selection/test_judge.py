"""The judge scores as `divrl-train score` does, and prepares a reference once a size."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.score import score_folder
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.rewards.features import FeatureBatch
from divrl_core.selection.judge import Judge


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(BackboneConfig(name="lite0"))


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Coloured blots of (width, height)."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(96, 96), (120, 80)])
def test_scores_equal_those_of_the_command(tmp_path: Path, backbone: Backbone, size: tuple[int, int]) -> None:
    reference, mask = picture(0, (160, 100)), np.zeros((100, 160), dtype=bool)
    mask[20:80, 40:120] = True
    reference.save(tmp_path / "fox.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    folder = tmp_path / "pictures"
    folder.mkdir()
    made = [picture(seed, size) for seed in (1, 2)]
    for number, one in enumerate(made):
        one.save(folder / f"fox_{number}.png")

    score_folder(
        folder, tmp_path / "fox.png", output=tmp_path / "out", mask=tmp_path / "mask.png", backbone=backbone
    )
    rows = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    batch = torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1).float() / 255 for one in made])
    scores = Judge(backbone, reference, mask).score(batch).scores
    for row, nssm, vsm in zip(rows, scores.nssm.tolist(), scores.vsm.tolist(), strict=True):
        assert nssm == pytest.approx(float(row["nssm"]), abs=1e-5)
        assert (row["vsm"] == "undefined") == (vsm != vsm)
        if vsm == vsm:
            assert vsm == pytest.approx(float(row["vsm"]), abs=1e-5)


class Counting:
    """A real backbone that counts the pictures it has seen."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone, self.seen = backbone, 0
        self.name, self.source, self.settings = backbone.name, backbone.source, backbone.settings

    def extract(self, images: torch.Tensor) -> FeatureBatch:
        self.seen += len(images)
        return self._backbone.extract(images)


def test_a_reference_is_seen_once_a_size(backbone: Backbone) -> None:
    counting = Counting(backbone)
    judge = Judge(counting, picture(0, (64, 64)), None)
    for _ in range(3):
        judge.measured(torch.rand(2, 3, 64, 64))
    assert counting.seen == 1 + 3 * 2
    judge.score(torch.rand(1, 3, 64, 96))
    assert counting.seen == 1 + 3 * 2 + 1 + 1


def test_the_reference_is_one_more_point_of_the_same_space() -> None:
    """The distance of the reference to a picture is that picture's nSSM, also where the grid is pooled."""
    pocket = load_backbone(BackboneConfig(name="pocket"))
    assert pocket.settings.score.nssm_pool == 2
    mask = np.zeros((96, 96), dtype=bool)
    mask[13:70, 21:83] = True
    reference = picture(3, (96, 96))
    pictures = [torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in (reference, picture(4, (96, 96)))]
    found = Judge(pocket, reference, mask).measured(torch.stack(pictures).float() / 255)
    assert found.distances is not None
    assert float(found.distances[0, 1]) == pytest.approx(float(found.nssm[1]), abs=1e-5)


def test_masks_of_other_pictures_are_refused(backbone: Backbone) -> None:
    judge = Judge(backbone, picture(0, (64, 64)), None)
    with pytest.raises(ValueError, match=r"image masks must match their images: expected \(2, 64, 64\)"):
        judge.score(torch.rand(2, 3, 64, 64), torch.ones(1, 64, 64, dtype=torch.bool))
