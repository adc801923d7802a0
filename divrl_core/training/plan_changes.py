"""What to change when a run does not fit its card: each change is planned again, and only what was counted is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..config_cfm import CfmConfig
from ..settings import from_mapping, merge, to_mapping
from .cards import Card
from .memory_plan import plan_memory
from .plan_inputs import PlannedConfig, Workload

LEAST_RANK, LEAST_SIDE_PX, SMALLER_SIDES = 4, 256, (0.75, 0.5)
MOST_PAIRS = 64  # in a micro-batch of cfm, where nothing else bounds it


@dataclass(frozen=True, kw_only=True)
class Change:
    """Settings laid over the run's, and the peak that follows."""

    settings: Mapping[str, Any]
    peak: int
    fits: bool

    @property
    def words(self) -> str:
        """name=value, as --set takes it, joined by spaces."""
        return " ".join(f"{name}={_plain(value)}" for name, value in self.settings.items())


def batch_setting(config: PlannedConfig) -> str:
    """The setting that says how many samples a forward of training has."""
    return "objective.batch_size" if isinstance(config, CfmConfig) else "grpo.micro_batch"


def changed(load: Workload, settings: Mapping[str, Any]) -> Workload:
    """The run under other settings. Raises ValueError where they contradict the others."""
    mapping = to_mapping(load.config)
    for name, value in settings.items():
        nested: Any = value
        for key in reversed(name.split(".")):
            nested = {key: nested}
        mapping = merge(mapping, nested)
    rank = load.traced_rank or load.config.lora.rank  # a smaller rank is counted with this one's activations
    return replace(load, config=from_mapping(type(load.config), mapping), traced_rank=rank)


def peak_with(load: Workload, settings: Mapping[str, Any]) -> int | None:
    """The peak under other settings, counted quickly; None where they contradict the others."""
    try:
        return plan_memory(changed(load, settings), is_quick=True).peak
    except ValueError:
        return None


def largest_batch(load: Workload, card: Card) -> int | None:
    """The largest micro-batch that fits; None where not even one sample does."""
    name = batch_setting(load.config)
    most = MOST_PAIRS if isinstance(load.config, CfmConfig) else load.config.grpo.group_size
    return _most(1, most, lambda count: _fits(load, card, {name: count}))


def changes(load: Workload, card: Card) -> tuple[Change, ...]:
    """Single changes that make the run fit; where none does, several together; else those that save most."""
    tried = [
        change for settings in _single(load, card) if (change := _tried(load, card, settings)) is not None
    ]
    fitting = [change for change in tried if change.fits]
    if fitting:
        return tuple(fitting)
    if load.size_px > LEAST_SIDE_PX:  # other pictures: only where nothing else helps
        smaller = _tried(load, card, {"model.image_size_px": _largest_side(load, card)})
        if smaller is not None and smaller.fits:
            return (smaller,)
        tried += [smaller] if smaller is not None else []
    together = _together(load, card, tried)
    return (together,) if together is not None else ()


def _single(load: Workload, card: Card) -> Iterator[Mapping[str, Any]]:
    """Changes by themselves, those that cost least first."""
    config = load.config
    model, optim = config.model, config.optim
    if not model.gradient_checkpointing:
        yield {"model.gradient_checkpointing": True}
    if model.dtype == "float32":
        yield {"model.dtype": "bfloat16"}
    fewer = largest_batch(load, card)
    if load.micro_batch > 1 and (fewer is None or fewer < load.micro_batch):
        yield {batch_setting(config): fewer or 1}
    if model.dtype == "bfloat16" and config.run.mixed_precision == "no":
        yield {"run.mixed_precision": "bf16"}
    if optim.name == "adamw":
        yield {"optim.name": "adamw8bit"}
    if not optim.offload:
        yield {"optim.offload": True}
    if model.quantization == "none" and model.gradient_checkpointing and not model.compile:
        yield {"model.offload_blocks": _fewest_offloaded(load, card)}
    if (
        model.quantization == "none"
        and not model.offload_blocks
        and not (model.transformer_file or "").endswith(".gguf")
    ):
        yield {"model.quantization": "fp8"}
        yield {"model.quantization": "nf4"}
    rank = _largest_halving(load, card, "lora.rank", config.lora.rank, LEAST_RANK)
    if rank < config.lora.rank:
        yield {"lora.rank": rank}


def _tried(load: Workload, card: Card, settings: Mapping[str, Any]) -> Change | None:
    peak = peak_with(load, settings)
    return None if peak is None else Change(settings=settings, peak=peak, fits=card.fits(peak))


def _together(load: Workload, card: Card, tried: list[Change]) -> Change | None:
    """One change after the other, the cheapest first, until it fits; None where all of them do not suffice."""
    before = plan_memory(load, is_quick=True).peak
    settings: dict[str, Any] = {}
    for change in tried:
        more = {**settings, **change.settings}
        if "model.quantization" in change.settings:
            more.pop("model.offload_blocks", None)  # they exclude each other; the smaller base is the surer
        peak = peak_with(load, more)
        if peak is None or peak >= before:
            continue
        settings, before = more, peak
        if card.fits(peak):
            return Change(settings=settings, peak=peak, fits=True)
    return None


def _fits(load: Workload, card: Card, settings: Mapping[str, Any]) -> bool:
    peak = peak_with(load, settings)
    return peak is not None and card.fits(peak)


def _most(low: int, high: int, is_good: Callable[[int], bool]) -> int | None:
    """The largest number from low to high that is good, where all smaller ones are too."""
    best = None
    while low <= high:
        middle = (low + high) // 2
        if is_good(middle):
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best


def _fewest_offloaded(load: Workload, card: Card) -> int:
    """The smallest number of offloaded blocks that fits, else all of them."""
    most = sum(load.pipeline.blocks)
    kept = _most(0, most, lambda kept: _fits(load, card, {"model.offload_blocks": most - kept}))
    return most if kept is None else max(1, most - kept)


def _largest_halving(load: Workload, card: Card, name: str, value: int, least: int) -> int:
    while value > least:
        value //= 2
        if _fits(load, card, {name: value}):
            break
    return value


def _largest_side(load: Workload, card: Card) -> int:
    """Three quarters of the run's side where that fits, else half of it; multiples of 16."""
    sides = [max(LEAST_SIDE_PX, round(load.size_px * share / 16) * 16) for share in SMALLER_SIDES]
    return next((side for side in sides if _fits(load, card, {"model.image_size_px": side})), sides[-1])


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
