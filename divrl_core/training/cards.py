"""Graphics cards by name: memory, and the peak rates that their makers state.

Memory is what nvidia-smi shows as total. Rates are dense, without sparsity: bfloat16 on tensor cores with float32
sums, and float32 outside of them, from NVIDIA's data sheets and architecture papers.
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, replace

MIB, GIB = 2**20, 2**30
MARGIN_SHARE = 0.10
"""Head-room over the planned peak: fragments of the allocator, a kernel's own workspace."""
CONTEXT_BYTES = GIB
"""Head-room for the CUDA context and the libraries' own memory."""
USABLE_SHARE = 0.3
"""Of the peak rate, where no rate is given: what one H200 reached on FLUX in bfloat16 (docs/full-size.md)."""


@dataclass(frozen=True, kw_only=True)
class Card:
    """One or several equal cards."""

    name: str
    memory_bytes: int
    """Of one card."""
    bf16_tflops: float
    fp32_tflops: float
    count: int = 1
    rates_of: str | None = None
    """The card whose rates are taken, where only a size was named."""
    is_host: bool = False
    """This computer without a card."""

    @property
    def title(self) -> str:
        """The name with its count: 8 x a100-80gb."""
        return self.name if self.count == 1 else f"{self.count} x {self.name}"

    def needed(self, peak_bytes: int) -> int:
        """The memory a card must have for a planned peak: 10% and 1 GiB more."""
        return round(peak_bytes * (1 + MARGIN_SHARE)) + CONTEXT_BYTES

    def fits(self, peak_bytes: int) -> bool:
        """Whether the peak fits with head-room."""
        return self.needed(peak_bytes) <= self.memory_bytes


def _card(name: str, mib: int, bf16: float, fp32: float) -> Card:
    return Card(name=name, memory_bytes=mib * MIB, bf16_tflops=bf16, fp32_tflops=fp32)


CARDS = {
    card.name: card
    for card in (
        _card("rtx-3090", 24576, 71.0, 35.6),
        _card("rtx-4090", 24564, 165.2, 82.6),
        _card("rtx-5090", 32607, 209.5, 104.8),
        _card("l4", 23034, 121.0, 30.3),
        _card("a10", 23028, 125.0, 31.2),
        _card("a6000", 49140, 154.8, 38.7),
        _card("rtx-6000-ada", 49140, 364.2, 91.1),
        _card("l40s", 46068, 362.0, 91.6),
        _card("a100-40gb", 40960, 312.0, 19.5),
        _card("a100-80gb", 81920, 312.0, 19.5),
        _card("h100", 81559, 989.4, 66.9),
        _card("h200", 143771, 989.4, 66.9),
    )
}
SIZES = {"24gb": "rtx-4090", "48gb": "a6000", "80gb": "a100-80gb"}
"""A size in words -> the card whose memory and rates it is planned with; others scale with nothing."""
_WORDS = re.compile(r"(?:(\d+)\s*x\s*)?(.+)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*gi?b?")


def card_of(words: str) -> Card:
    """The card that words name: rtx-4090, 24GB, 8x80GB, 8xh100, or cpu (this computer).

    Raises ValueError, with the nearest name, when there is none.
    """
    text = words.strip().lower()
    if text in CARDS:
        return CARDS[text]
    if text == "cpu":
        return this_computer()
    matched = _WORDS.fullmatch(text)
    assert matched is not None or not text, text
    count, name = (int(matched[1] or 1), matched[2].strip()) if matched else (1, "")
    if count < 1:
        raise ValueError(f"--card: the number of cards must be at least 1, got {words!r}")
    if name in CARDS:
        return replace(CARDS[name], count=count)
    if name in SIZES:
        rates = CARDS[SIZES[name]]
        return replace(rates, name=name.upper(), count=count, rates_of=rates.name)
    size = _SIZE.fullmatch(name)
    if size and float(size[1]) >= 1:
        rates = CARDS[_nearest_size(float(size[1]))]
        memory = round(float(size[1]) * GIB)
        name = f"{size[1]}GB"
        return replace(rates, name=name, memory_bytes=memory, count=count, rates_of=rates.name)
    known = (*CARDS, *SIZES, "cpu")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"--card: no card {words!r}{hint} Known: {', '.join(known)}, a size (32GB), 8x in front")


def this_computer() -> Card:
    """The host's own memory; its rates are not known, and no time is told without --rate."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Card(name="this computer", memory_bytes=memory, bf16_tflops=0, fp32_tflops=0, is_host=True)


def card_here() -> Card:
    """The first card of this computer, or the computer itself where there is none."""
    import torch

    if not torch.cuda.is_available():
        return this_computer()
    found = torch.cuda.get_device_properties(0)
    words = set(re.split(r"[^a-z0-9]+", found.name.lower()))
    known = [card for name, card in CARDS.items() if set(name.split("-")) <= words]
    like = known[0] if known else Card(name="", memory_bytes=0, bf16_tflops=0, fp32_tflops=0)
    rates_of = like.name if known else None
    return replace(like, name=found.name, memory_bytes=found.total_memory, rates_of=rates_of)


def _nearest_size(size_gb: float) -> str:
    return SIZES[min(SIZES, key=lambda name: abs(float(name.removesuffix("gb")) - size_gb))]
