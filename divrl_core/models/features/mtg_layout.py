"""Mind-the-Glitch's published files: the names of its weights, and what experiment_cfg.yaml says of them.

Weights of this file          | published as
unet.*                        | cleandift_model.unet_feature_extractor_cleandift.*
vae.* (the encoding half)     | cleandift_model.ae.ae.*
timestep                      | cleandift_model.timestep
semantic.layers.T.B.*         | bottleneck_layers_semantic.T.B.*    T: place of the tap, B: block
semantic.mixing_weights       | mixing_weights_semantic
visual.*                      | likewise

The published file also holds what only CleanDIFT's training needs; it is left alone.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ..tensor_headers import SAFETENSORS, read_header
from .diffusion_taps import TAPS
from .mtg_files import EXPERIMENT_FILE
from .mtg_stacks import StackShape

STACKS = ("semantic", "visual")
GRID_CELLS = 48  # at 768 px: the published grid
_NAMES = {
    "unet.": "cleandift_model.unet_feature_extractor_cleandift.",
    "vae.": "cleandift_model.ae.ae.",
    "timestep": "cleandift_model.timestep",
    **{f"{stack}.layers.": f"bottleneck_layers_{stack}." for stack in STACKS},
    **{f"{stack}.mixing_weights": f"mixing_weights_{stack}" for stack in STACKS},
}
_WHOLE = tuple(name for own, name in _NAMES.items() if own != "vae.")  # where nothing may be left over
# What is needed of experiment_cfg.yaml: the published place first, then where it may stand as well.
_TAPS_AT = ("model.feat_type", "feat_type")
_GROUPS_AT = ("model.resnet.num_norm_groups", "model.num_norm_groups", "num_norm_groups")
_GRID_AT = ("model.final_feat_resolution", "final_feat_resolution")


@dataclass(frozen=True, kw_only=True)
class MtgLayout:
    """What the weights do not say of themselves: the taps in the order of the stacks' layers, GroupNorm's groups."""

    taps: tuple[str, ...]
    norm_groups: int


def published_name(own: str) -> str:
    """The published name of one of our weights."""
    start = next(start for start in _NAMES if own.startswith(start))
    return _NAMES[start] + own.removeprefix(start)


def read_layout(path: Path) -> MtgLayout:
    """Read experiment_cfg.yaml.

    Raises ValueError in one line, with the file and the key, when one is missing or cannot be meant.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"{path}: not readable as YAML: {first_line}; download it again") from error
    given = _value(content, _TAPS_AT)
    if given is None:
        raise ValueError(f"{path}: no {_TAPS_AT[0]} in it, the list of taps (us1 to us10); download it again")
    taps = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
    unknown = [tap for tap in taps if tap not in TAPS]
    if unknown or not taps or len(set(taps)) < len(taps):
        raise ValueError(
            f"{path}: {_TAPS_AT[0]} must be different taps of us1 to us10, got {unknown[0] if unknown else given!r}"
        )
    groups = _value(content, _GROUPS_AT)
    if groups is None:
        raise ValueError(f"{path}: no {_GROUPS_AT[0]} in it, GroupNorm's groups; download it again")
    if not isinstance(groups, int) or groups < 1:
        raise ValueError(f"{path}: {_GROUPS_AT[0]} must be a whole number from 1 up, got {groups!r}")
    grid = _value(content, _GRID_AT)
    if grid not in (None, GRID_CELLS):
        raise ValueError(
            f"{path}: {_GRID_AT[0]} must be {GRID_CELLS}, the only grid known here, got {grid!r}"
        )
    return MtgLayout(taps=taps, norm_groups=groups)


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of a torch file that holds nothing else, on the CPU; the file is mapped.

    Raises ValueError in one line when it is damaged, or a pickle that holds more than tensors.
    """
    if path.suffix.lower() in SAFETENSORS:
        read_header(path)
        return load_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: holds more than tensors and could run code, or is damaged; get the weights as .safetensors"
        ) from error
    except (RuntimeError, EOFError, KeyError) as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path}: damaged or cut off ({first_line}); get it again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: must hold named tensors and nothing else; get the weights as .safetensors")
    return content


def stack_shape(
    tensors: Mapping[str, Tensor], stack: str, widths: Sequence[int], norm_groups: int, *, path: Path
) -> StackShape:
    """The sizes of a stack, read off its first tap's layer. Raises ValueError when that is not there, or cannot be."""
    layer = f"bottleneck_layers_{stack}.0."
    name = f"{layer}0.conv3.weight"
    if name not in tensors:
        raise ValueError(f"{path}: no {name} in it: not a checkpoint of Mind-the-Glitch; get it again")
    projection, bottleneck = tensors[name].shape[:2]
    if projection % norm_groups or bottleneck % norm_groups:
        raise ValueError(
            f"{path}: {stack}: {bottleneck} and {projection} channels do not divide into the {norm_groups} groups of "
            f"{_GROUPS_AT[0]}; the two files do not belong together"
        )
    return StackShape(
        widths=tuple(widths),
        blocks=len({name.split(".")[2] for name in tensors if name.startswith(layer)}),
        bottleneck=bottleneck,
        projection=projection,
        norm_groups=norm_groups,
    )


def own_weights(
    tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], *, path: Path
) -> dict[str, Tensor]:
    """The checkpoint's tensors under our names: exactly those of `expected`, in its shapes.

    Raises ValueError in one line when weights are of another shape, missing (how many, and the first) or left over.
    """
    names = {own: published_name(own) for own in expected}
    for own, name in names.items():
        shape = tuple(tensors[name].shape) if name in tensors else None
        if shape not in (None, tuple(expected[own])):
            raise ValueError(
                f"{path}: {name} must be {tuple(expected[own])} by {EXPERIMENT_FILE} and the configurations of "
                f"reward.backbone.base_path, got {shape}; they do not belong together"
            )
    missing = [name for name in names.values() if name not in tensors]
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} weights of Mind-the-Glitch are missing, the first is {missing[0]}; "
            "get it again"
        )
    known = set(names.values())
    extra = [name for name in tensors if name.startswith(_WHOLE) and name not in known]
    if extra:
        raise ValueError(
            f"{path}: {len(extra)} weights have no place in the network, the first is {extra[0]}; the checkpoint, "
            f"{EXPERIMENT_FILE} and reward.backbone.base_path do not belong together"
        )
    return {own: tensors[name] for own, name in names.items()}


def _value(content: Any, places: Sequence[str]) -> Any:
    """What stands at the first of these dotted names; None where it stands at none."""
    for place in places:
        found = content
        for key in place.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found is not None:
            return found
    return None
