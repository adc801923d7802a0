"""Prompts and references as the model reads them, encoded once before training; the text encoders leave afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ..models.conditioning import Conditioning, TextEmbeddings
from ..models.flux import FluxAdapter
from .latent_cache import EncodingKeys
from .pair_order import pick_pairs
from .processes import Processes
from .references import PromptPair, Reference, ReferenceSet
from .tensor_store import TensorStore

logger = logging.getLogger("divrl")


class EncodedPairs:
    """The conditioning of every pair a run will meet; each prompt and each reference is held once.

    Each is encoded in a batch of its own, so what comes out does not depend on which others a run needs. With a folder
    the encodings lie there, for the other processes and for the next start; without one they stay in memory.
    """

    def __init__(
        self,
        adapter: FluxAdapter,
        size_px: int,
        *,
        folder: Path | None = None,
        processes: Processes | None = None,
    ) -> None:
        if processes is not None and processes.count > 1 and folder is None:
            raise ValueError("EncodedPairs: several processes need a folder to share")
        self._adapter, self._size_px, self._processes = adapter, size_px, processes
        self._store, self._keys = TensorStore(folder), EncodingKeys.of(adapter)
        self._prompts: set[str] = set()
        self._references: dict[str, Path] = {}
        self._made = 0

    def encode(
        self,
        references: ReferenceSet,
        pairs: Iterable[PromptPair],
        *,
        also: Callable[[str, Reference], None] = lambda reference_id, reference: None,
        is_quiet: bool = False,
    ) -> None:
        """Encode what `pairs` need and was not encoded before; of several processes on a machine each does its share.

        `also(reference_id, reference)` is called with each reference of the share while it is at hand.
        """
        pairs = tuple(pairs)
        prompts = [p for p in dict.fromkeys(pair.prompt for pair in pairs) if p not in self._prompts]
        ids = [i for i in dict.fromkeys(pair.reference_id for pair in pairs) if i not in self._references]
        index, count = (
            (self._processes.local_index, self._processes.local_count) if self._processes else (0, 1)
        )
        missing = [text for text in prompts[index::count] if self._store.is_missing(self._text_path(text))]
        self._adapter.warn_of_cut_prompts(missing)
        for text in tqdm(missing, desc="prompts", disable=is_quiet, leave=False):
            encoded = self._adapter.encode_text([text], warns=False)
            self._store.write(
                self._text_path(text), {"prompt_embeds": encoded.prompt_embeds, "pooled": encoded.pooled}
            )
            self._made += 1
        found: list[tuple[str, Path]] = []
        for reference_id in tqdm(ids[index::count], desc="references", disable=is_quiet, leave=False):
            reference = references.load(reference_id, self._size_px)
            path = self._reference_path(reference)
            if self._store.is_missing(path):
                self._store.write(path, {"tokens": self._adapter.encode_images(reference.image[None])})
                self._made += 1
            found.append((reference_id, path))
            also(reference_id, reference)
        self._references |= dict(self._processes.gather(found) if self._processes else found)
        self._prompts |= set(prompts)

    def finish(self) -> None:
        """Free the text encoders and say what is held."""
        self._adapter.drop_encoders()
        logger.info(
            "%d prompts and %d references at hand, %d of them encoded now; text encoders freed",
            len(self._prompts),
            len(self._references),
            self._made,
        )

    def conditioning(self, pairs: Sequence[PromptPair]) -> Conditioning:
        """The conditioning of these pairs, one sample each, on the model's device."""
        parts = []
        for pair in pairs:
            text = TextEmbeddings(**self._store.read(self._text_path(pair.prompt)))
            tokens = self._store.read(self._references[pair.reference_id])["tokens"]
            device = self._adapter.device
            parts.append(
                self._adapter.conditioning(
                    text.to(device), tokens.to(device), height=self._size_px, width=self._size_px
                )
            )
        return parts[0] if len(parts) == 1 else Conditioning.cat(parts)

    def _text_path(self, prompt: str) -> Path:
        return self._store.path("captions", self._keys.caption(prompt))

    def _reference_path(self, reference: Reference) -> Path:
        pixels = reference.image.contiguous().cpu().numpy().tobytes()
        digest = blake2b(pixels, digest_size=16).hexdigest()
        return self._store.path("latents", self._keys.picture(digest, "framed", self._size_px, self._size_px))


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
