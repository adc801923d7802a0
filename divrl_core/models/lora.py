"""LoRA adapters inside a FLUX transformer: where they sit, how they start, which one is answering.

A linear layer W with an adapter computes `W x + (alpha / rank) B A x`, with A (rank, in) and B (out, rank).
A transformer can hold several adapters by name: POLICY is trained, REFERENCE is a frozen copy for the KL
term, OLD a copy that draws DiffusionNFT's samples and follows the policy. Files are the business of
`lora_export`, `lora_file` (reading) and `lora_apply` (from a file into a transformer).
"""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from .lora_file import LoraState
from .offload import visited_device

logger = logging.getLogger("divrl")

POLICY = "policy"
REFERENCE = "reference"
OLD = "old"


_ATTENTION = (
    r"transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)"
    r"|single_transformer_blocks\.\d+\.attn\.(to_q|to_k|to_v)"
)
# A single block's proj_out takes attention and feed-forward together; it counts as feed-forward.
_FEED_FORWARD = (
    r"transformer_blocks\.\d+\.(ff|ff_context)\.net\.(0\.proj|2)"
    r"|single_transformer_blocks\.\d+\.(proj_mlp|proj_out)"
)
# Adaptive layer norms: scale, shift and gate of a block, from time and prompt; not the final layer's.
_MODULATION = (
    r"transformer_blocks\.\d+\.(norm1|norm1_context)\.linear|single_transformer_blocks\.\d+\.norm\.linear"
)
# Full-match patterns of diffusers module names: "proj_out" as a suffix would also hit the final layer.
TARGETS: dict[str, str] = {
    "attention": _ATTENTION,
    "attention+ffn": f"{_ATTENTION}|{_FEED_FORWARD}",
    "attention+ffn+modulation": f"{_ATTENTION}|{_FEED_FORWARD}|{_MODULATION}",
}


def target_pattern(targets: str) -> str:
    """The full-match pattern of the module names that `targets` stands for: a name of TARGETS, or a pattern itself.

    A pattern of one's own is a regular expression that must match whole names:
    "single_transformer_blocks\\.3\\d\\.attn\\.to_v". Raises ValueError when it is neither (`LoraConfig` says more).
    """
    if targets not in TARGETS and "." not in targets:
        raise ValueError(
            f"lora.targets must be one of {', '.join(map(repr, TARGETS))} or a pattern, got {targets!r}"
        )
    return TARGETS.get(targets, targets)


def target_modules(transformer: nn.Module, targets: str) -> tuple[str, ...]:
    """Names of the linear layers of `transformer` that `targets` stands for, in the model's order.

    FLUX.1 (19 double and 38 single blocks) has 266 for "attention", 418 for "attention+ffn" and 494 with modulation.
    """
    pattern = re.compile(target_pattern(targets))
    return tuple(
        name
        for name, module in transformer.named_modules()
        if pattern.fullmatch(name) and isinstance(module, nn.Linear | LoraLayer)
    )


def add_lora(
    transformer: nn.Module,
    rank: int,
    alpha: float,
    targets: str,
    seed: int,
    *,
    adapter: str = POLICY,
) -> tuple[str, ...]:
    """Put a trainable adapter into `transformer`, freeze everything else, and return the modules it sits on.

    A starts uniform in ±1/sqrt(in) from `seed` alone (peft's own law; the global random state is left as it
    was), B starts at zero, so the model's output is unchanged. The weights are float32 whatever the base's
    dtype: peft then computes `B A x` in float32 and rounds once, after the addition.

    Raises ValueError when a number is out of range, no module matches, or the adapter is already there.
    """
    if rank < 1:
        raise ValueError(f"lora.rank must be at least 1, got {rank}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"lora.alpha must be a positive number, got {alpha}")
    modules = target_modules(transformer, targets)
    if not modules:
        raise ValueError(
            f"lora.targets={targets!r} matches no linear layer of {type(transformer).__name__}: "
            "a FLUX transformer with diffusers' module names is needed"
        )
    transformer.requires_grad_(False)
    exactly = "|".join(
        map(re.escape, modules)
    )  # a pattern of one's own may match norms too, which peft refuses
    inject_adapter(transformer, adapter, rank=rank, alpha=alpha, pattern=exactly)
    _start_weights(transformer, adapter, seed)
    return modules


def inject_adapter(transformer: nn.Module, adapter: str, *, rank: int, alpha: float, pattern: str) -> None:
    """Add a float32 adapter on the modules whose whole name matches `pattern`, and make it the active one.

    It lies where its layer lies; on an offloaded layer, where that layer computes.
    Its weights are not meaningful yet: set them with `load_lora_state`. Raises ValueError when it exists.
    """
    if adapter in adapter_names(transformer):
        raise ValueError(f"the transformer already holds a LoRA adapter named {adapter!r}")
    settings = LoraConfig(r=rank, lora_alpha=alpha, target_modules=pattern, lora_dropout=0.0, bias="none")  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft draws initial weights, which are replaced afterwards, and warns of the second adapter we want.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        transformer.add_adapter(settings, adapter_name=adapter)  # type: ignore[operator]
    device = visited_device(transformer)
    for _, layer in lora_layers(transformer, adapter):
        layer.lora_A[adapter].to(device, torch.float32)
        layer.lora_B[adapter].to(device, torch.float32)


def freeze_reference(transformer: nn.Module, *, source: str = POLICY, adapter: str = REFERENCE) -> None:
    """Copy adapter `source` as it is now into a second, frozen adapter; `source` stays the active one.

    Use it with `using_adapter(transformer, REFERENCE)` as the KL reference of a run that began from a LoRA.
    """
    rank, alpha = adapter_shape(transformer, source)
    names = "|".join(re.escape(name) for name, _ in lora_layers(transformer, source))
    inject_adapter(transformer, adapter, rank=rank, alpha=alpha, pattern=names)
    load_lora_state(transformer, lora_state(transformer, adapter=source), adapter=adapter)
    transformer.set_adapter(source)  # type: ignore[operator]
    for parameter in lora_parameters(transformer, adapter=adapter).values():
        parameter.requires_grad_(False)


def lora_layers(transformer: nn.Module, adapter: str | None = None) -> Iterator[tuple[str, LoraLayer]]:
    """(module name, peft layer) in the model's order; with `adapter`, only the layers that hold it."""
    for name, module in transformer.named_modules():
        if isinstance(module, LoraLayer) and (adapter is None or adapter in module.lora_A):
            yield name, module


def adapter_names(transformer: nn.Module) -> tuple[str, ...]:
    """Names of the adapters that `transformer` holds, in the order in which they were added."""
    return tuple(dict.fromkeys(name for _, layer in lora_layers(transformer) for name in layer.lora_A))


def adapter_shape(transformer: nn.Module, adapter: str = POLICY) -> tuple[int, float]:
    """(rank, alpha) of an adapter. Raises ValueError when the transformer does not hold it."""
    for _, layer in lora_layers(transformer, adapter):
        return layer.r[adapter], layer.lora_alpha[adapter]
    held = ", ".join(adapter_names(transformer)) or "none"
    raise ValueError(
        f"the transformer holds no LoRA adapter named {adapter!r} (it holds: {held}); call add_lora() first"
    )


def lora_parameters(transformer: nn.Module, *, adapter: str = POLICY) -> dict[str, nn.Parameter]:
    """The adapter's own parameters (not copies) under the names of `LoraState`: what an optimizer is given.

    Raises ValueError when the transformer does not hold the adapter.
    """
    adapter_shape(transformer, adapter)
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in lora_layers(transformer, adapter):
        parameters[f"{name}.lora_A.weight"] = layer.lora_A[adapter].weight
        parameters[f"{name}.lora_B.weight"] = layer.lora_B[adapter].weight
    return parameters


def lora_state(transformer: nn.Module, *, adapter: str = POLICY) -> LoraState:
    """Detached CPU copies of the adapter's weights, as trained: alpha / rank is not folded in."""
    parameters = lora_parameters(transformer, adapter=adapter)
    return {name: parameter.detach().to("cpu", copy=True) for name, parameter in parameters.items()}


def load_lora_state(transformer: nn.Module, state: Mapping[str, Tensor], *, adapter: str = POLICY) -> None:
    """Set the adapter's weights to `state` (from `lora_state`, or an average of such); nothing else changes.

    Raises ValueError when a name or a shape differs; then no weight has been touched.
    """
    parameters = lora_parameters(transformer, adapter=adapter)
    for name in [*parameters, *state]:
        if name not in state or name not in parameters:
            where = "the LoRA state" if name not in state else f"the adapter {adapter!r}"
            raise ValueError(f"LoRA weights do not fit: {name} is missing in {where}")
        if state[name].shape != parameters[name].shape:
            expected, got = tuple(parameters[name].shape), tuple(state[name].shape)
            raise ValueError(f"LoRA weights do not fit: {name} is {expected} in the adapter, got {got}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state[name])


@contextmanager
def with_lora_state(transformer: nn.Module, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside this block the policy adapter has these weights (its average, say); afterwards its own, bit for bit."""
    own = lora_state(transformer)
    load_lora_state(transformer, state)
    try:
        yield
    finally:
        load_lora_state(transformer, own)


@contextmanager
def disabled_lora(transformer: nn.Module) -> Iterator[None]:
    """Inside this block the transformer is the base model, bit for bit, whatever adapters it holds."""
    with _switched(transformer, lambda layer: layer.enable_adapters(False)):
        yield


@contextmanager
def using_adapter(transformer: nn.Module, adapter: str) -> Iterator[None]:
    """Inside this block only `adapter` answers, and nothing of it is trained.

    Raises ValueError when the transformer does not hold the adapter.
    """
    adapter_shape(transformer, adapter)

    def switch(layer: LoraLayer) -> None:
        layer.set_adapter([adapter], inference_mode=True)
        layer._disable_adapters = False

    with _switched(transformer, switch):
        yield


@contextmanager
def _switched(transformer: nn.Module, switch: Callable[[LoraLayer], None]) -> Iterator[None]:
    """Apply `switch` to every layer; afterwards put back which adapter is active and what is trained."""
    layers = [layer for _, layer in lora_layers(transformer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    # peft's switches also change requires_grad, which the optimizer and the next backward pass rely on.
    trained = [(p, p.requires_grad) for layer in layers for p in _adapter_parameters(layer)]
    try:
        for layer in layers:
            switch(layer)
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled
        for parameter, is_trained in trained:
            parameter.requires_grad_(is_trained)


def _adapter_parameters(layer: LoraLayer) -> Iterator[nn.Parameter]:
    yield from layer.lora_A.parameters()
    yield from layer.lora_B.parameters()


def _start_weights(transformer: nn.Module, adapter: str, seed: int) -> None:
    """A uniform in ±1/sqrt(in), B zero, drawn on the CPU in the model's order from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, layer in lora_layers(transformer, adapter):
            weight_a = layer.lora_A[adapter].weight
            bound = 1 / math.sqrt(weight_a.shape[1])
            weight_a.copy_(torch.rand(weight_a.shape, generator=generator).mul_(2 * bound).sub_(bound))
            layer.lora_B[adapter].weight.zero_()
