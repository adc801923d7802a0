"""AlexNet's convolutions and LPIPS's heads on them: the networks behind LPIPS (arXiv:1801.03924), read without pickle.

The trunk is torchvision's AlexNet, layer by layer; its weights are a file that torchvision once downloaded (torch's own
cache), or one that the user names. The heads, 6 KB, come inside the package torchmetrics. torchvision itself is not
needed: its wheels fit one build of torch each.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

WHO = "metric lpips"
TRUNK_FILE = "alexnet-owt-7be5be79.pth"
HEADS_FILE = Path("functional", "image", "lpips_models", "alex.pth")
CHANNELS = (64, 192, 384, 256, 256)
TAPS = (1, 4, 7, 9, 11)  # after each ReLU
SUFFIXES = (".safetensors", ".pth", ".pt")
LEAST_PX = 64
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's own, for pictures in [-1, 1]


class LpipsNetwork(nn.Module):
    """Five maps of a picture, and for each a weight a channel."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, fourth, fifth = CHANNELS
        self.features = nn.Sequential(
            nn.Conv2d(3, first, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ParameterList(torch.zeros(count) for count in CHANNELS)

    @torch.no_grad()
    def maps(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, C, h, w) of pictures (B, 3, H, W) in [0, 1], each cell of length 1 over its channels, in float32."""
        shift, scale = (torch.tensor(of, device=pictures.device)[:, None, None] for of in (_SHIFT, _SCALE))
        values, found = (2 * pictures.float() - 1 - shift) / scale, []
        for place, layer in enumerate(self.features):
            values = layer(values)
            if place in TAPS:
                length = (values.square().sum(dim=1, keepdim=True) + 1e-8).sqrt()
                found.append(values / length)
        return tuple(found)


def load_lpips(path: str | None) -> LpipsNetwork:
    """The network with AlexNet's weights from a file or folder (None: torch's cache) and torchmetrics' heads.

    Raises FileNotFoundError where weights or the package torchmetrics are not there, ValueError where a file is another
    network's or damaged; one line each, beginning with the metric.
    """
    network = LpipsNetwork()
    trunk, heads = trunk_file(path), heads_file()
    found = _read(trunk)
    wanted = {f"features.{name}": value for name, value in network.features.state_dict().items()}
    _check(found, wanted, trunk, "AlexNet of torchvision")
    weights = {name: found[name] for name in wanted}
    of_heads = _read(heads)
    named = {
        f"lin{place}.model.1.weight": torch.zeros(1, count, 1, 1) for place, count in enumerate(CHANNELS)
    }
    _check(of_heads, named, heads, "LPIPS's heads for AlexNet")
    weights |= {f"heads.{place}": of_heads[name].flatten() for place, name in enumerate(named)}
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval().requires_grad_(False)


def trunk_file(path: str | None) -> Path:
    """The file of AlexNet's weights: one that is named, in a folder that is named, or in torch's cache."""
    if path is None:
        file = Path(torch.hub.get_dir()) / "checkpoints" / TRUNK_FILE
        if not file.is_file():
            raise FileNotFoundError(
                f"{WHO}: no weights of AlexNet in torch's cache ({TRUNK_FILE}); get that file from torchvision's "
                "models (alexnet, ImageNet) and name it or its folder"
            )
        return file
    named = Path(path).expanduser()
    if not named.exists():
        raise FileNotFoundError(f"{WHO}: there is no file or folder {path}; AlexNet's weights are needed")
    if named.is_file():
        return named
    found = sorted(file for file in named.iterdir() if _is_trunk(file))
    if len(found) != 1:
        what = f"{len(found)} of them" if found else "none"
        raise FileNotFoundError(
            f"{WHO}: {path}: one file alexnet*.pth or alexnet*.safetensors is needed in this folder, found {what}"
        )
    return found[0]


def heads_file() -> Path:
    """LPIPS's heads inside the package torchmetrics, which is not imported."""
    spec = find_spec("torchmetrics")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"{WHO}: its heads come in the package torchmetrics, which is not installed; run: "
            'pip install "divrl[evaluate]"'
        )
    file = Path(spec.origin).parent / HEADS_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{WHO}: the installed torchmetrics has no {HEADS_FILE}; run: pip install --force-reinstall torchmetrics"
        )
    return file


def _is_trunk(file: Path) -> bool:
    return file.name.lower().startswith("alexnet") and file.suffix in SUFFIXES


def _read(file: Path) -> Mapping[str, Tensor]:
    """The tensors of a file; of a pickle tensors alone are read, nothing in it is run."""
    if file.suffix not in SUFFIXES:
        raise ValueError(f"{WHO}: {file}: a .safetensors or .pth file is needed")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{WHO}: {file}: cannot be read as weights ({reason}); get it again") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{WHO}: {file}: weights by name are needed, got a {type(found).__name__}")
    return found


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: Path, kind: str) -> None:
    for name, value in wanted.items():
        own = found.get(name)
        if not isinstance(own, Tensor) or own.shape != value.shape:
            what = "it is not there" if not isinstance(own, Tensor) else f"it is {tuple(own.shape)}"
            raise ValueError(
                f"{WHO}: {file}: the weights of {kind} are needed, with {name} {tuple(value.shape)}; {what}"
            )
