"""Writing LoRA files in the layout of `lora_file`: scale folded in, header complete, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from .lora import POLICY, adapter_shape, lora_state
from .lora_file import KEY_PREFIX, LAYOUT_KEY, SETTINGS_KEY, LoraState, paired

EXPORT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

# Header fields that describe what is inside; a caller may not contradict them.
_OWN_FIELDS = {
    "format", "modelspec.sai_model_spec", "ss_network_dim", "ss_network_alpha", SETTINGS_KEY,
    "lora_adapter_metadata",  # diffusers would take a scale from it
}  # fmt: skip


def export_lora(
    path: str | os.PathLike[str],
    lora: nn.Module | Mapping[str, Tensor],
    *,
    rank: int,
    alpha: float,
    settings: Mapping[str, Any] | None = None,
    layout: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a trained LoRA, given as a transformer (its policy adapter) or as a `LoraState` (an EMA, say).

    lora_B is multiplied by alpha / rank in float64 and rounded once to `dtype`: exact in float32 where
    alpha / rank is a power of two. `settings` (anything JSON can hold) goes into the header with rank and
    alpha under "lora". `layout` is where the reference lay in training (layout.py).
    `metadata` adds header fields or replaces `modelspec.*` ones such as the title.
    The file appears whole or not at all. Raises ValueError when weights, numbers or fields do not fit.
    """
    if isinstance(lora, nn.Module):
        held_rank, held_alpha = adapter_shape(lora, POLICY)
        if (held_rank, held_alpha) != (rank, alpha):
            raise ValueError(
                f"{path}: the adapter has rank {held_rank} and alpha {held_alpha}, "
                f"the export was given rank {rank} and alpha {alpha}"
            )
        lora = lora_state(lora)
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"{path}: lora.alpha must be a positive number, got {alpha}")
    ranks = {module: weight_a.shape[0] for module, (weight_a, _) in paired(lora, str(path)).items()}
    wrong = next((module for module, found in ranks.items() if found != rank), None)
    if wrong is not None:
        raise ValueError(f"{path}: {wrong} has rank {ranks[wrong]}, expected {rank}")
    folded: LoraState = {}
    for name, weight in lora.items():
        is_b = name.endswith(".lora_B.weight")
        folded[name] = fold(weight, alpha / rank, dtype) if is_b else weight.to(dtype)
    header = {**(metadata or {}), **({LAYOUT_KEY: layout} if layout else {})}
    return write_folded(path, folded, rank=rank, alpha=alpha, settings=settings, metadata=header)


def fold(weight_b: Tensor, scale: float, dtype: torch.dtype) -> Tensor:
    """lora_B times `scale`, multiplied in float64 and rounded once to `dtype`."""
    return (weight_b.double() * scale).to(dtype)


def write_folded(
    path: str | os.PathLike[str],
    folded: Mapping[str, Tensor],
    *,
    rank: int,
    alpha: float,
    settings: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write weights whose scale is folded in already, with the header; `alpha` is the one trained with."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: a LoRA file must be named *.safetensors")
    for name, weight in folded.items():
        if weight.dtype not in EXPORT_DTYPES:
            raise ValueError(f"{path}: {name} must be float32, bfloat16 or float16, got {weight.dtype}")
        if not torch.isfinite(weight).all():
            raise ValueError(f"{path}: {name} is not finite in {weight.dtype}; nothing was written")
    header = _header(path, rank=rank, alpha=alpha, settings=settings or {}, metadata=metadata or {})
    # Copies of their own: safetensors refuses views and tensors that share memory.
    tensors = {
        f"{KEY_PREFIX}{name}": weight.detach().to("cpu", copy=True).contiguous()
        for name, weight in folded.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        # Not save_file: a kill leaves its random name behind, and the owner alone may read what it writes.
        with unfinished.open("wb") as stream:
            stream.write(save(tensors, metadata=header))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _header(
    path: Path, *, rank: int, alpha: float, settings: Mapping[str, Any], metadata: Mapping[str, str]
) -> dict[str, str]:
    """The header that diffusers, ComfyUI and LoRA managers read, and our settings with the original alpha."""
    for name, value in metadata.items():
        if name in _OWN_FIELDS:
            raise ValueError(f"{path}: the header field {name!r} is the export's own; leave it out")
        if not isinstance(value, str):
            raise ValueError(f"{path}: the header field {name!r} must be text, got {type(value).__name__}")
    own_settings = {**settings, "lora": {**settings.get("lora", {}), "rank": rank, "alpha": alpha}}
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "flux-1-dev/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ss_base_model_version": "flux1",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),  # the scale is folded in: a reader that applies alpha / dim must get 1
        "ss_output_name": path.stem,
        SETTINGS_KEY: json.dumps(own_settings, sort_keys=True),
        **metadata,
    }
