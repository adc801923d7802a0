"""Raw PEFT folders (as `PeftModel.save_pretrained` leaves them; the public DivRL weights too) to our layout.

Such a folder loads neither in diffusers (KeyError) nor in ComfyUI (every key dropped with a log line).
Converting swaps the prefix `base_model.model.` for `transformer.` and folds each module's scale into lora_B.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from .lora_export import fold, write_folded
from .lora_file import LoraFile, LoraState, fill_ranks, paired, read_lora

PEFT_PREFIX = "base_model.model."
WEIGHTS_NAME = "adapter_model.safetensors"
CONFIG_NAME = "adapter_config.json"
ORIGIN_KEY = "divrl.converted_from_peft"  # header field: what adapter_config.json said of rank and scale

_FLUX_ROOTS = {
    "transformer_blocks", "single_transformer_blocks", "x_embedder", "context_embedder",
    "time_text_embed", "norm_out", "proj_out",
}  # fmt: skip
# Kinds of LoRA whose effect is not `scale * B A` on an unchanged base.
_OTHER_KINDS = {
    "use_dora": "DoRA keeps magnitudes, which ComfyUI drops",
    "lora_bias": "it holds biases, which ComfyUI drops",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "alora_invocation_tokens": "aLoRA acts on chosen tokens only",
    "arrow_config": "an Arrow router has no fixed weights",
    "layer_replication": "it replicates layers",
    "fan_in_fan_out": "its weights are transposed",
    "modules_to_save": "it replaces whole modules",
    "trainable_token_indices": "it replaces token embeddings",
    "target_parameters": "it acts on bare parameters",
    "kasa_config": "KaSA changes the base weights",
    "monteclora_config": "MonteCLoRA samples its weights",
}
# Ways to start that leave the base model as it is; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA change it.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")


def convert_peft_folder(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
) -> LoraFile:
    """Convert `src` (adapter_model.safetensors + adapter_config.json) into the file `dst` and read it back.

    Scale per module = alpha / rank, or alpha / sqrt(rank) with use_rslora; rank_pattern and alpha_pattern are
    obeyed as peft does. With `dtype` None the weights keep their dtype where the fold is exact in it, as
    with the usual powers of two; otherwise they become float32. Modules may be missing (the public weights
    lack the single blocks' proj_out). Raises FileNotFoundError when a file is missing and ValueError for
    adapters whose effect this layout cannot hold, each with its reason.
    """
    src = Path(src)
    config = _read_config(src)
    pairs = paired(_read_weights(src), str(src / WEIGHTS_NAME))
    ranks = {module: weight_a.shape[0] for module, (weight_a, _) in pairs.items()}
    scales = {module: module_scale(config, module, rank) for module, rank in ranks.items()}
    chosen = dtype if dtype is not None else _lossless_dtype(pairs, scales)
    folded = {
        module: (weight_a.to(chosen), fold(weight_b, scales[module], chosen))
        for module, (weight_a, weight_b) in pairs.items()
    }
    rank = max(ranks.values())
    alpha = _scale(config, config["lora_alpha"], config["r"]) * rank
    kept = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "target_modules")
    origin = {name: config[name] for name in kept if name in config}
    write_folded(
        dst,
        fill_ranks(folded, rank),
        rank=rank,
        alpha=alpha,
        metadata={ORIGIN_KEY: json.dumps(origin, sort_keys=True), **(metadata or {})},
    )
    return read_lora(dst)


def look_at_peft_folder(src: str | os.PathLike[str]) -> tuple[int, int, float]:
    """(layers, rank, alpha) of what `convert_peft_folder` would write; the weights' header alone is read.

    Raises as that does.
    """
    src = Path(src)
    config = _read_config(src)
    pairs = paired(_read_weights(src, with_weights=False), str(src / WEIGHTS_NAME))
    rank = max(weight_a.shape[0] for weight_a, _ in pairs.values())
    return len(pairs), rank, _scale(config, config["lora_alpha"], config["r"]) * rank


def module_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What peft multiplies `B A` by at `module`, whose weights have `rank`."""
    alphas: Mapping[str, float] = config.get("alpha_pattern") or {}
    alpha: float = alphas.get(get_pattern_key(list(alphas), module), config["lora_alpha"])
    return _scale(config, alpha, rank)


def _scale(config: Mapping[str, Any], alpha: float, rank: int) -> float:
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _lossless_dtype(pairs: Mapping[str, tuple[Tensor, Tensor]], scales: Mapping[str, float]) -> torch.dtype:
    """The weights' own dtype if every lora_B times its scale is a number of that dtype, else float32."""
    dtype = next(iter(pairs.values()))[1].dtype
    for module, (weight_a, weight_b) in pairs.items():
        exact = weight_b.double() * scales[module]
        is_one_dtype = weight_a.dtype == weight_b.dtype == dtype
        if not is_one_dtype or not torch.equal(exact.to(dtype).double(), exact):
            return torch.float32
    return dtype


def _read_config(src: Path) -> dict[str, Any]:
    if not src.exists():
        raise FileNotFoundError(f"{src}: no such folder")
    if not src.is_dir():
        raise ValueError(
            f"{src}: a PEFT folder is needed (with {WEIGHTS_NAME} and {CONFIG_NAME}), this is a file"
        )
    path = src / CONFIG_NAME
    if not path.exists():
        below = sorted(str(found.parent) for found in src.glob(f"*/{CONFIG_NAME}"))
        hint = f"; there is one in {below[0]}: give that folder" if below else ""
        raise FileNotFoundError(f"{path}: missing, and without it the scale is unknown{hint}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise ValueError(f"{path}: peft_type must be LORA, got {kind!r}")
    for name in ("r", "lora_alpha"):
        if not isinstance(config.get(name), int | float) or not config[name] > 0:
            raise ValueError(f"{path}: {name} must be a positive number, got {config.get(name)!r}")
    for name, reason in _OTHER_KINDS.items():
        if config.get(name):
            raise ValueError(f"{path}: {name} is set: {reason}, so it cannot be converted exactly")
    if config.get("bias", "none") != "none":
        raise ValueError(
            f"{path}: bias={config['bias']!r}: trained biases are dropped by ComfyUI; needed: 'none'"
        )
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        raise ValueError(
            f"{path}: init_lora_weights={config['init_lora_weights']!r} changes the base model too; "
            "save it from peft as plain LoRA first (path_initial_model_for_weight_conversion)"
        )
    return config


def _read_weights(src: Path, *, with_weights: bool = True) -> LoraState:
    path = src / WEIGHTS_NAME
    if not path.exists():
        if (src / "adapter_model.bin").exists():
            raise ValueError(
                f"{src / 'adapter_model.bin'}: a pickle can run code when it is opened, so it is not read; "
                "save it again with save_pretrained(..., safe_serialization=True)"
            )
        raise FileNotFoundError(f"{path}: missing")
    try:
        tensors = load_file(path) if with_weights else _shapes_of(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    state: LoraState = {}
    for key, weight in tensors.items():
        name = key.removeprefix(PEFT_PREFIX)
        if name == key:
            raise ValueError(
                f"{path}: not a raw PEFT key: {key}; expected '{PEFT_PREFIX}<module>.lora_A.weight'"
            )
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise ValueError(
                f"{path}: {key} is neither lora_A.weight nor lora_B.weight, so it cannot be converted"
            )
        if name.split(".", 1)[0] not in _FLUX_ROOTS:
            raise ValueError(
                f"{path}: {key} is not a layer of a FLUX transformer; another model family's LoRA?"
            )
        state[name] = weight
    return state


def _shapes_of(path: Path) -> dict[str, Tensor]:
    """The file's tensors on the meta device."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
