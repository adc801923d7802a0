"""Whether candidates may share one call of the sampler, and how many rows the model takes at once.

What is known to handle each row of a batch apart may be shared; everything else gets a call of its own for each
candidate, which is always right and costs more when losers are stopped early.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import comfy.model_management as management
import comfy.sampler_helpers
from torch import Tensor

from .reference import shift_references

# Samplers whose rows do not touch each other, as ComfyUI names their functions, and options that keep them so.
LOCKSTEP = frozenset(
    f"sample_{name}"
    for name in (
        "euler", "heun", "heunpp2", "dpm_2", "lms", "dpmpp_2m", "ipndm", "ipndm_v", "deis", "res_multistep",
        "gradient_estimation",
    )
)  # fmt: skip
HARMLESS_OPTIONS = frozenset(("order", "max_order", "deis_mode", "ge_gamma", "solver_type"))
# Entries of a guider's model options that only say where and how weights lie.
HARMLESS_MODEL_OPTIONS = frozenset(("transformer_options", "to_load_options", "multigpu_clones"))
HARMLESS_TRANSFORMER_OPTIONS = frozenset(("rope_options", "sample_sigmas", "optimized_attention_override"))


def why_not_shared(guider: Any, sampler: Any) -> str:
    """Why each candidate needs a call of its own; empty where they may share one."""
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    options = {key for key, value in getattr(sampler, "extra_options", {}).items() if value}
    draws_noise = getattr(sampler, "inpaint_options", {}).get("random", False)
    if name not in LOCKSTEP or not options <= HARMLESS_OPTIONS or draws_noise:
        return f"the sampler {name.removeprefix('sample_')} may draw noise or mix rows"
    if not type(guider).__module__.startswith(("comfy.", "comfy_extras.")):
        return f"the guider {type(guider).__name__} is not one of ComfyUI's own"
    patches = sorted(_patches(guider))
    return (
        f"the model is patched ({', '.join(patches)}), and a patch may remember earlier steps"
        if patches
        else ""
    )


def has_batches(guider: Any, latent: dict[str, Any]) -> bool:
    """Whether a prompt, reference, mask or hint is a batch: rows of the model would then see different ones."""
    conds = getattr(guider, "original_conds", {})
    entries = [value for group in conds.values() for cond in group for value in cond.values()]
    return any(len(tensor) > 1 for tensor in _tensors([*entries, latent.get("noise_mask")]))


def memory_for(guider: Any, shape: Sequence[int], rows: int) -> float:
    """Bytes that sampling so many rows takes beside the weights, as ComfyUI itself estimates it."""
    conds = getattr(guider, "original_conds", {})
    of_one: float = comfy.sampler_helpers.estimate_memory(guider.model_patcher, [1, *shape[1:]], conds)[0]
    return of_one * rows


def rows_at_once(guider: Any, shape: Sequence[int], rows: int) -> int:
    """How many rows the model can take in free memory beside its own weights; at least one."""
    patcher = guider.model_patcher
    free = management.get_free_memory(patcher.load_device)
    waiting = max(0, patcher.model_size() - patcher.loaded_size())
    return max(1, min(rows, int((free - waiting) * 0.8 / max(memory_for(guider, shape, 1), 1))))


def _patches(guider: Any) -> Iterable[str]:
    """Names of what other nodes have hung into the model, but for what is known to keep nothing."""
    options = guider.model_options
    for key, value in options.items():
        if key not in HARMLESS_MODEL_OPTIONS and value:
            yield key
    transformer = options.get("transformer_options", {})
    for key, value in transformer.items():
        if key == "patches":
            yield from (
                name for name, functions in value.items() if any(f is not shift_references for f in functions)
            )
        elif key in ("wrappers", "callbacks"):
            yield from _names(value)
        elif key not in HARMLESS_TRANSFORMER_OPTIONS and value:
            yield key
    yield from _names(getattr(guider.model_patcher, "wrappers", {}))
    yield from _names(getattr(guider.model_patcher, "callbacks", {}))


def _names(hung: dict[str, dict[Any, list[Any]]]) -> Iterable[str]:
    return (str(kind) for kind, by_key in hung.items() if any(by_key.values()))


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor) and value.ndim > 1:
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif hasattr(value, "cond_hint_original"):
            yield from _tensors([value.cond_hint_original, getattr(value, "previous_controlnet", None)])
