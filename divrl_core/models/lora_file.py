"""LoRA files: the one layout that loads natively in diffusers and in ComfyUI, and how it is read.

Keys are `transformer.<diffusers module>.lora_A.weight` / `.lora_B.weight`. The scale alpha / rank is folded
into lora_B and no tensor or header says otherwise: ComfyUI takes no alpha from headers, diffusers refuses a
file that states a scale twice. Our own header keeps the original alpha, so that training can go on from a
file (`lora_apply.continue_from`). Writing is in `lora_export`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

LoraState = dict[str, Tensor]  # "<module>.lora_A.weight" (rank, in) and "<module>.lora_B.weight" (out, rank)

KEY_PREFIX = "transformer."
SETTINGS_KEY = "divrl.settings"
LAYOUT_KEY = "divrl.layout"  # where the reference lay in training: kontext, width, diagonal, none

_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_ONLY_DIFFUSERS = "only the diffusers layout 'transformer.<module>.lora_A.weight' is read"
_ADD_PREFIX = "diffusers would ignore them without a word; they need the prefix 'transformer.'"
# How each foreign layout is recognised in a key, what it is called, and what to do about it.
_FOREIGN_LAYOUTS = (
    ("base_model.model.", "raw PEFT keys", "convert its folder with `divrl-train convert`"),
    ("lora_unet_", "kohya keys", _ONLY_DIFFUSERS),
    ("lora_transformer_", "kohya keys", _ONLY_DIFFUSERS),
    ("lora_te", "kohya keys of a text encoder", "only LoRAs of the transformer are read"),
    ("diffusion_model.", "keys with the prefix 'diffusion_model.'", _ADD_PREFIX),
    ("transformer_blocks.", "keys without a prefix", _ADD_PREFIX),
    ("single_transformer_blocks.", "keys without a prefix", _ADD_PREFIX),
    ("double_blocks.", "keys with Black Forest Labs' module names", _ONLY_DIFFUSERS),
    ("single_blocks.", "keys with Black Forest Labs' module names", _ONLY_DIFFUSERS),
    ("text_encoder", "weights for a text encoder", "only LoRAs of the transformer are read"),
)


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA as it lies in a file: alpha / rank is folded into lora_B, so its effect is `B A` itself."""

    path: Path
    tensors: LoraState  # no prefix; one rank throughout
    rank: int
    alpha: float  # as trained with, from our header; equal to rank where the header does not say
    metadata: dict[str, str]  # the header, word for word
    settings: dict[str, Any]  # our run's settings from the header; empty for files of other origin

    @property
    def layout(self) -> str | None:
        """Where the reference lay in training; None where the header does not say."""
        return self.metadata.get(LAYOUT_KEY)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the layers that the file changes."""
        end = ".lora_A.weight"
        return tuple(name.removesuffix(end) for name in self.tensors if name.endswith(end))


def read_lora(path: str | os.PathLike[str], *, with_weights: bool = True) -> LoraFile:
    """Read a LoRA of a FLUX transformer in the layout above, written by us or by anybody else.

    Modules of smaller rank are filled up with zeros, which changes nothing, so that one rank holds throughout.
    Without `with_weights` the tensors are on the meta device, shapes alone: enough to know whether a file of gigabytes
    fits. Raises FileNotFoundError when there is nothing at `path`, and ValueError when it is a folder, a pickle, no
    safetensors file, or in another layout (the message names the layout and what to do).
    """
    path = Path(path)
    _check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = dict(file.metadata() or {})
            keys = list(file.keys())
            _check_layout(path, keys, metadata)
            state = {
                key.removeprefix(KEY_PREFIX): file.get_tensor(key) if with_weights else _shape_of(file, key)
                for key in keys
            }
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); get it again") from error
    pairs = paired(state, str(path))
    for name, weight in state.items():
        if with_weights and not torch.isfinite(weight).all():
            raise ValueError(f"{path}: {name} holds values that are not finite; the file is of no use")
    rank = max(weight_a.shape[0] for weight_a, _ in pairs.values())
    settings = _own_settings(path, metadata)
    alpha = settings.get("lora", {}).get("alpha", rank)
    if not isinstance(alpha, int | float) or not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"{path}: the header's lora.alpha must be a positive number, got {alpha!r}")
    return LoraFile(
        path=path,
        tensors=fill_ranks(pairs, rank),
        rank=rank,
        alpha=float(alpha),
        metadata=metadata,
        settings=settings,
    )


def _shape_of(file: Any, key: str) -> Tensor:
    return torch.empty(file.get_slice(key).get_shape(), device="meta")


def check_layout(trained: str | None, layout: str, where: str) -> None:
    """Raise ValueError, beginning with `where`, when a LoRA was trained with the reference in another layout.

    A LoRA trained on a width canvas was never taught to read a reference that lies as Kontext's, and the reverse.
    `trained` None: a file whose header does not say; it is taken as it is.
    """
    if trained is not None and trained != layout:
        raise ValueError(
            f"{where}: was trained with the reference in layout {trained}, here it lies in layout {layout}; "
            f"set the layout to {trained}"
        )


def fill_ranks(pairs: Mapping[str, tuple[Tensor, Tensor]], rank: int) -> LoraState:
    """One rank for all modules: rows of A and columns of B that are missing are zeros, so `B A` is unchanged.

    Loaders that find several ranks and no alpha have been seen to scale some modules by a wrong alpha / rank.
    """
    state: LoraState = {}
    for module, (weight_a, weight_b) in pairs.items():
        missing = rank - weight_a.shape[0]
        state[f"{module}.lora_A.weight"] = nn.functional.pad(weight_a, (0, 0, 0, missing))
        state[f"{module}.lora_B.weight"] = nn.functional.pad(weight_b, (0, missing))
    return state


def paired(state: Mapping[str, Tensor], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    """module -> (A, B), in order; ValueError naming `where` for a half pair, a strange name or a shape."""
    modules = dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in state)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for module in modules:
        names = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        for name in names:
            if name not in state:
                raise ValueError(f"{where}: incomplete LoRA, {name} is missing")
        weight_a, weight_b = state[names[0]], state[names[1]]
        if weight_a.dim() != 2 or weight_b.dim() != 2 or weight_a.shape[0] != weight_b.shape[1]:
            raise ValueError(
                f"{where}: {module} must hold A (rank, in) and B (out, rank), "
                f"got {tuple(weight_a.shape)} and {tuple(weight_b.shape)}"
            )
        pairs[module] = weight_a, weight_b
    if not pairs:
        raise ValueError(f"{where}: holds no LoRA weights")
    if len(state) != 2 * len(pairs):
        names_in_pairs = {f"{module}.lora_{side}.weight" for module in pairs for side in "AB"}
        stranger = next(name for name in state if name not in names_in_pairs)
        raise ValueError(f"{where}: {stranger} is neither lora_A.weight nor lora_B.weight")
    return pairs


def _check_is_file(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such LoRA file")
    if path.is_dir():
        hint = ""
        if (path / "adapter_config.json").exists():
            hint = "; this is a raw PEFT folder: convert it with `divrl-train convert`"
        raise ValueError(f"{path}: a LoRA must be a .safetensors file, this is a folder{hint}")
    if path.suffix.lower() in _PICKLES:
        raise ValueError(f"{path}: a pickle can run code when opened, so only .safetensors files are read")


def _check_layout(path: Path, keys: list[str], metadata: Mapping[str, str]) -> None:
    """Refuse, by name, every layout whose weights would be read wrongly or not at all."""
    for key in keys:
        if ".dora_scale" in key or "lora_magnitude_vector" in key:
            raise ValueError(f"{path}: a DoRA ({key}); ComfyUI drops its magnitudes; a plain LoRA is needed")
        for beginning, name, advice in _FOREIGN_LAYOUTS:
            if key.startswith(beginning):
                raise ValueError(f"{path}: {name} (first: {key}); {advice}")
        if key.endswith(".alpha"):
            raise ValueError(f"{path}: {key} states a scale apart; alpha / rank folded into lora_B is needed")
        if not key.startswith(KEY_PREFIX) or not key.endswith((".lora_A.weight", ".lora_B.weight")):
            raise ValueError(f"{path}: {key} is not a LoRA layer's; {_ONLY_DIFFUSERS}")
    if "lora_adapter_metadata" in metadata:
        _check_diffusers_scale(path, metadata["lora_adapter_metadata"])


def _check_diffusers_scale(path: Path, text: str) -> None:
    """diffusers' own header may state alpha and rank apart from the weights; only a scale of 1 is ours."""
    try:
        stated = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the header field 'lora_adapter_metadata' is not JSON ({error})") from error
    if not isinstance(stated, dict):
        raise ValueError(f"{path}: the header field 'lora_adapter_metadata' is not a mapping")
    rank, alpha = stated.get("transformer.r"), stated.get("transformer.lora_alpha")
    special = ("rank_pattern", "alpha_pattern", "use_rslora")
    if rank != alpha or any(stated.get(f"transformer.{name}") for name in special):
        raise ValueError(
            f"{path}: its header states a scale of its own (rank {rank}, alpha {alpha}); "
            "a file with alpha / rank folded into lora_B is needed"
        )


def _own_settings(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        settings = json.loads(metadata.get(SETTINGS_KEY, "{}"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: the header field {SETTINGS_KEY!r} is not JSON ({error})") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("lora", {}), dict):
        raise ValueError(f"{path}: the header field {SETTINGS_KEY!r} is not a mapping of settings")
    return settings
