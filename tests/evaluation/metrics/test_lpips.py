"""LPIPS: by hand, against torchmetrics' own network, and what is said where its weights are not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from divrl_core.evaluation.metrics.lpips import SIDE_PX, LpipsScorer, lpips_distance
from divrl_core.models.features import alexnet
from divrl_core.models.features.alexnet import TRUNK_FILE, LpipsNetwork, load_lpips
from tests.evaluation.metrics.small_networks import save_alexnet
from tests.evaluation.metrics.subjects import noise, shot, subject

pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_alexnet(tmp_path_factory.mktemp("alexnet") / TRUNK_FILE)


def test_lpips_by_hand() -> None:
    first = (torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]]), torch.tensor([[[[0.5]]]]))
    second = (torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]]), torch.tensor([[[[1.0]]]]))
    heads = [torch.tensor([2.0, 3.0]), torch.tensor([4.0])]
    # first place: 2*1 + 3*1, second place: 0, mean 2.5; second layer: 4 * .25
    assert lpips_distance(first, second, heads).item() == pytest.approx(3.5)
    assert lpips_distance(first, first, heads).item() == 0


def plain_alexnet(state: dict[str, torch.Tensor]) -> nn.Sequential:
    """AlexNet's features as torchvision builds them (models/alexnet.py), with these weights."""
    features = nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2), nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(64, 192, kernel_size=5, padding=2), nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(192, 384, kernel_size=3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, kernel_size=3, padding=1), nn.ReLU(inplace=True),
        nn.MaxPool2d(kernel_size=3, stride=2),
    )  # fmt: skip
    features.load_state_dict(
        {name.removeprefix("features."): value for name, value in state.items() if "features" in name}
    )
    return features


@torch.no_grad()
def test_lpips_is_torchmetrics_own_on_the_same_weights(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs_of = pytest.importorskip("torchmetrics.functional.image.lpips")
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(theirs_of, "_get_tv_model_features", lambda net, pretrained: plain_alexnet(state))
    theirs = theirs_of._NoTrainLpips(net="alex")
    scorer = LpipsScorer.load(str(weights))
    pictures = [noise(seed, SIDE_PX, SIDE_PX, cells=24) for seed in range(3)]
    shots = [shot(picture, 0, k) for k, picture in enumerate(pictures)]
    values = scorer.score(shots, scorer.prepare(subject(seed=9, height=SIDE_PX, width=SIDE_PX)))
    images = [torch.tensor(alexnet_input(picture)) for picture in (*pictures, noise(9, SIDE_PX, SIDE_PX))]
    expected = [theirs(image, images[-1], normalize=True).item() for image in images[:-1]]
    assert values["lpips"].tolist() == pytest.approx(expected, rel=1e-4)
    pairs = [theirs(images[a], images[b], normalize=True).item() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert values["set_lpips"].tolist() == pytest.approx([sum(pairs) / 3], rel=1e-4)
    assert min(expected) > 1e-4 and max(expected) / min(expected) > 1.001


def alexnet_input(picture: object) -> list[object]:
    from divrl_core.training.pictures import picture_tensor

    return picture_tensor(picture)[None].tolist()  # type: ignore[arg-type]


def test_a_picture_of_any_shape_is_0_from_itself_and_copies_are_0_from_each_other(weights: Path) -> None:
    scorer = LpipsScorer.load(str(weights))
    for height, width in ((64, 64), (48, 96)):
        reference = subject(seed=2, height=height, width=width)
        shots = [
            shot(reference.picture, 0, 0),
            shot(reference.picture, 0, 1),
            shot(noise(5, height, width), 1),
        ]
        values = scorer.score(shots, scorer.prepare(reference))
        assert values["lpips"][:2].tolist() == pytest.approx([0, 0], abs=1e-4) and values["lpips"][2] > 1e-3
        assert values["set_lpips"][0] == 0 and math.isnan(values["set_lpips"][1])
    assert set(scorer.score(shots[:1], scorer.prepare(reference))) == {"lpips"}


def test_each_reference_and_each_picture_goes_through_once(weights: Path) -> None:
    scorer, seen = LpipsScorer.load(str(weights)), []
    scorer._network.features[0].register_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    for name in ("fox", "owl"):
        prepared = scorer.prepare(subject(name))
        for part in range(2):
            scorer.score([shot(noise(k), part, k, name=name) for k in range(3)], prepared)
    assert sum(seen) == 2 * (1 + 6)


def test_weights_are_found_in_a_folder_in_safetensors_and_in_torchs_cache(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torch.load(weights, weights_only=True)
    save_file(state, tmp_path / "alexnet.safetensors")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    save_alexnet(tmp_path / "hub" / "checkpoints" / TRUNK_FILE)
    for path in (
        str(weights),
        str(weights.parent),
        str(tmp_path),
        str(tmp_path / "alexnet.safetensors"),
        None,
    ):
        network = load_lpips(path)
        assert torch.equal(network.features[0].weight, state["features.0.weight"])
        assert all(head.abs().sum() > 0 and head.min() >= 0 for head in network.heads)


def no_cache(path: Path) -> str | None:
    return None


def missing(path: Path) -> str | None:
    return str(path / "nowhere.pth")


def empty(path: Path) -> str | None:
    return str(path)


def another_network(path: Path) -> str | None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, path / "alexnet.pth")
    return str(path)


def no_network(path: Path) -> str | None:
    torch.save({"epoch": 3}, path / "alexnet.pth")
    return str(path)


def a_list(path: Path) -> str | None:
    torch.save([torch.zeros(1)], path / "alexnet.pth")
    return str(path)


def not_a_file_of_weights(path: Path) -> str | None:
    (path / "alexnet.pth").write_bytes(b"<html>not found</html>")
    return str(path)


def a_pickle_that_runs_code(path: Path) -> str | None:
    torch.save(Trap(path / "sprung"), path / "alexnet.pth")
    return str(path)


def a_text(path: Path) -> str | None:
    (path / "alexnet.txt").write_text("hello")
    return str(path / "alexnet.txt")


class Trap:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (no_cache, rf"no weights of AlexNet in torch's cache \({TRUNK_FILE}\); get that file"),
        (missing, r"there is no file or folder .*nowhere.pth; AlexNet's weights are needed"),
        (empty, r"one file alexnet\*.pth or alexnet\*.safetensors is needed in this folder, found none"),
        (another_network, r"features.0.weight \(64, 3, 11, 11\); it is \(64, 3, 3, 3\)"),
        (
            no_network,
            r"the weights of AlexNet of torchvision are needed, with features.0.weight .* not there",
        ),
        (a_list, r"weights by name are needed, got a list"),
        (not_a_file_of_weights, r"alexnet.pth: cannot be read as weights"),
        (a_pickle_that_runs_code, r"alexnet.pth: cannot be read as weights"),
        (a_text, r"alexnet.txt: a .safetensors or .pth file is needed"),
    ],
)
def test_what_is_wrong_with_the_weights_is_said_in_one_line_before_a_picture_is_made(
    make: Callable[[Path], str | None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises((ValueError, FileNotFoundError), match=said) as refusal:
        LpipsScorer.check(make(tmp_path))
    assert str(refusal.value).startswith("metric lpips: ") and "\n" not in str(refusal.value)
    assert not (tmp_path / "sprung").exists()


def test_without_torchmetrics_its_heads_are_missed_by_name(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alexnet, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r'pip install "divrl\[evaluate\]"'):
        LpipsScorer.check(str(weights))


def test_the_heads_are_the_packages_own() -> None:
    found = torch.load(alexnet.heads_file(), map_location="cpu", weights_only=True)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        f"lin{place}.model.1.weight": (1, count, 1, 1) for place, count in enumerate(alexnet.CHANNELS)
    }
    assert len(LpipsNetwork().heads) == 5
