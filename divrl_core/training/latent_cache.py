"""Encoded pictures and captions on disk, each under a name made of all that it depends on.

A picture's latent is named by its pixels, how it is framed, the panel's size, the VAE's files and the dtype; a caption
by its text, the number of tokens, the text side's files and the dtype. So a changed picture or setting misses just its
own entries, and runs may share a folder. Entries are files of kilobytes to a megabyte, written whole or not at all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from ..models.conditioning import TextEmbeddings
from ..models.fingerprint import component_fingerprint
from ..models.flux import FluxAdapter
from ..models.panels import cover, letterbox
from .files import write_atomic_bytes
from .model_files import length_by_header
from .pair_set import PairSet

logger = logging.getLogger("divrl")

VERSION = 1  # of framing and packing: raise it when either changes, and old entries are left alone
HELD_BYTES = 1 << 29  # entries kept in memory once read; the rest is read again each time
FRAMINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"target": cover, "reference": letterbox}


@dataclass(frozen=True)
class PanelPicture:
    """A picture as one of a canvas's two panels: `role` target (covers it) or reference (letterboxed)."""

    picture_id: str
    role: str
    height: int
    width: int


class LatentCache:
    """Latents and caption embeddings of a run, in a folder."""

    def __init__(self, folder: Path, adapter: FluxAdapter) -> None:
        self.folder, self._adapter = folder, adapter
        dtype = str(adapter.dtype).removeprefix("torch.")
        self._vae = f"{component_fingerprint(adapter.folder, 'vae')}/{dtype}"
        text_parts = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        self._text = f"{component_fingerprint(adapter.folder, *text_parts)}/{dtype}/{adapter.max_text_tokens}"
        self.encoders = (self._vae, self._text)
        """Names of the two encoders' files and settings."""
        self._held: dict[Path, dict[str, Tensor]] = {}
        self._held_bytes = 0

    def encode(
        self,
        pairs: PairSet,
        pictures: Iterable[PanelPicture],
        captions: Iterable[str],
        *,
        is_quiet: bool = False,
        on_progress: Callable[[], None] = lambda: None,
    ) -> int:
        """Encode what is not in the folder yet, each in a batch of its own; returns how many entries were made.

        `on_progress()` is called before each entry. Encoders that nothing is missing for are never loaded.
        """
        by_path = {self.latent_path(pairs, item): item for item in dict.fromkeys(pictures)}
        missing_pictures = [item for path, item in by_path.items() if self._is_missing(path)]
        missing_captions = [
            text for text in dict.fromkeys(captions) if self._is_missing(self.caption_path(text))
        ]
        self._adapter.warn_of_cut_prompts(missing_captions)
        for text in tqdm(missing_captions, desc="captions", disable=is_quiet, leave=False):
            on_progress()
            encoded = self._adapter.encode_text([text], warns=False)
            self._write(
                self.caption_path(text), {"prompt_embeds": encoded.prompt_embeds, "pooled": encoded.pooled}
            )
        for item in tqdm(missing_pictures, desc="latents", disable=is_quiet, leave=False):
            on_progress()
            panel = FRAMINGS[item.role](pairs.load(item.picture_id), item.height, item.width)
            self._write(self.latent_path(pairs, item), {"tokens": self._adapter.encode_images(panel[None])})
        return len(missing_pictures) + len(missing_captions)

    def latent(self, pairs: PairSet, item: PanelPicture) -> Tensor:
        """Clean tokens (1, N, C) of a panel, on the CPU. Raises FileNotFoundError for one that was not encoded."""
        return self._read(self.latent_path(pairs, item))["tokens"]

    def caption(self, text: str) -> TextEmbeddings:
        """The embeddings of one caption, on the CPU. Raises FileNotFoundError for one that was not encoded."""
        entry = self._read(self.caption_path(text))
        return TextEmbeddings(prompt_embeds=entry["prompt_embeds"], pooled=entry["pooled"])

    def latent_path(self, pairs: PairSet, item: PanelPicture) -> Path:
        """The file of a panel's latent."""
        facts = pairs.facts(item.picture_id)
        # A picture of the panel's own size is left as it is in either role: one latent serves both.
        role = "as it is" if (facts.height, facts.width) == (item.height, item.width) else item.role
        return self._path(
            "latents", f"{VERSION}/{facts.digest}/{role}/{item.height}x{item.width}/{self._vae}"
        )

    def caption_path(self, text: str) -> Path:
        """The file of a caption's embeddings."""
        return self._path("captions", f"{self._text}/{text}")

    def _path(self, kind: str, key: str) -> Path:
        name = blake2b(key.encode(), digest_size=20).hexdigest()
        return self.folder / kind / name[:2] / f"{name}.safetensors"

    def _is_missing(self, path: Path) -> bool:
        """Whether there is no whole entry, by its header; one of the wrong length (a broken disk) is made again."""
        if not path.is_file():
            return True
        if length_by_header(path) == path.stat().st_size:
            return False
        logger.warning("%s: a damaged entry of the cache; it is made again", path)
        return True

    def _read(self, path: Path) -> dict[str, Tensor]:
        if path in self._held:
            return self._held[path]
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: no longer in the cache; run again with --resume, which makes it anew"
            )
        try:
            entry = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: a damaged entry of the cache ({error})") from error
        size = sum(tensor.numel() * tensor.element_size() for tensor in entry.values())
        if self._held_bytes + size <= HELD_BYTES:
            self._held[path] = entry
            self._held_bytes += size
        return entry

    def _write(self, path: Path, tensors: dict[str, Tensor]) -> None:
        ready = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        for name, tensor in ready.items():
            if not torch.isfinite(tensor).all():
                raise ValueError(
                    f"{path.name}: the encoder gave {name} that is not finite; try model.dtype=float32"
                )
        self._held.pop(path, None)
        # Not flushed to the disk one by one: an entry that a power cut leaves short is found and made again.
        write_atomic_bytes(path, save(ready, metadata={"format": "pt"}), is_flushed=False)
