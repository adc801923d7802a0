"""Prompts and references as the model reads them, encoded once before training; the text encoders leave afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.conditioning import Conditioning, TextEmbeddings
from ..models.flux import FluxAdapter
from .pair_order import pick_pairs
from .references import PromptPair, Reference, ReferenceSet

logger = logging.getLogger("divrl")


class EncodedPairs:
    """The conditioning of every pair a run will meet, on the CPU; each prompt and each reference is held once.

    Each is encoded in a batch of its own, so what comes out does not depend on which others a run needs.
    """

    def __init__(self, adapter: FluxAdapter, size_px: int) -> None:
        self._adapter, self._size_px = adapter, size_px
        self._texts: dict[str, TextEmbeddings] = {}
        self._references: dict[str, Tensor] = {}

    def encode(
        self,
        references: ReferenceSet,
        pairs: Iterable[PromptPair],
        *,
        also: Callable[[str, Reference], None] = lambda reference_id, reference: None,
        is_quiet: bool = False,
    ) -> None:
        """Encode what `pairs` need and was not encoded before.

        `also(reference_id, reference)` is called with each reference while it is at hand.
        """
        pairs = tuple(pairs)
        prompts = [p for p in dict.fromkeys(pair.prompt for pair in pairs) if p not in self._texts]
        ids = [i for i in dict.fromkeys(pair.reference_id for pair in pairs) if i not in self._references]
        self._adapter.warn_of_cut_prompts(prompts)
        for prompt in tqdm(prompts, desc="prompts", disable=is_quiet, leave=False):
            self._texts[prompt] = self._adapter.encode_text([prompt], warns=False).to("cpu")
        for reference_id in tqdm(ids, desc="references", disable=is_quiet, leave=False):
            reference = references.load(reference_id, self._size_px)
            self._references[reference_id] = self._adapter.encode_images(reference.image[None]).to("cpu")
            also(reference_id, reference)

    def finish(self) -> None:
        """Free the text encoders and say what is held."""
        self._adapter.drop_encoders()
        logger.info(
            "encoded %d prompts and %d references: %.1f MB in memory, text encoders freed",
            len(self._texts),
            len(self._references),
            self.size_bytes / 1e6,
        )

    @property
    def size_bytes(self) -> int:
        texts = [t for text in self._texts.values() for t in (text.prompt_embeds, text.pooled)]
        return sum(t.numel() * t.element_size() for t in [*texts, *self._references.values()])

    def conditioning(self, pairs: Sequence[PromptPair]) -> Conditioning:
        """The conditioning of these pairs, one sample each, on the model's device."""
        parts = []
        for pair in pairs:
            text, tokens = self._texts[pair.prompt], self._references[pair.reference_id]
            device = self._adapter.device
            parts.append(
                self._adapter.conditioning(
                    text.to(device), tokens.to(device), height=self._size_px, width=self._size_px
                )
            )
        return parts[0] if len(parts) == 1 else Conditioning.cat(parts)


def pairs_of_run(
    pairs: Sequence[PromptPair], *, groups_per_update: int, updates: int, seed: int
) -> tuple[PromptPair, ...]:
    """The pairs that a run of so many updates will meet: all of them, or the beginning of the first epoch."""
    total = groups_per_update * updates
    if total >= len(pairs):
        return tuple(pairs)
    return pick_pairs(pairs, total, seed=seed, update=0)


def tokens_are_finite(tokens: Tensor) -> Tensor:
    """Bool (B,): whether all of a sample's latent numbers are finite."""
    return torch.isfinite(tokens).flatten(1).all(dim=1)
