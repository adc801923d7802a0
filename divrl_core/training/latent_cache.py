"""Encoded pictures and captions on disk, each under a name made of all that it depends on.

A picture's latent is named by its pixels, how it is framed, the panel's size, the VAE's files and the dtype; a caption
by its text, the number of tokens, the text side's files and the dtype. So a changed picture or setting misses just its
own entries, and runs may share a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..models.conditioning import TextEmbeddings
from ..models.fingerprint import component_fingerprint
from ..models.flux import FluxAdapter
from ..models.panels import cover, letterbox
from .pair_set import PairSet
from .tensor_store import TensorStore

VERSION = 1  # of framing and packing: raise it when either changes, and old entries are left alone
FRAMINGS: dict[str, Callable[[Tensor, int, int], Tensor]] = {"target": cover, "reference": letterbox}


@dataclass(frozen=True)
class PanelPicture:
    """A picture as one of a canvas's two panels: `role` target (covers it) or reference (letterboxed)."""

    picture_id: str
    role: str
    height: int
    width: int


@dataclass(frozen=True)
class EncodingKeys:
    """What names an encoded picture or caption, beside itself: the encoders' files, their dtype, the text's length."""

    vae: str
    text: str

    @classmethod
    def of(cls, adapter: FluxAdapter) -> EncodingKeys:
        """The keys of an adapter's encoders."""
        dtype = str(adapter.dtype).removeprefix("torch.")
        text_parts = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
        return cls(
            vae=f"{component_fingerprint(adapter.folder, 'vae')}/{dtype}",
            text=f"{component_fingerprint(adapter.folder, *text_parts)}/{dtype}/{adapter.max_text_tokens}",
        )

    def picture(self, digest: str, role: str, height: int, width: int) -> str:
        """The key of a picture's latent; `role`: how it was framed."""
        return f"{VERSION}/{digest}/{role}/{height}x{width}/{self.vae}"

    def caption(self, text: str) -> str:
        """The key of a caption's embeddings."""
        return f"{self.text}/{text}"


class LatentCache:
    """Latents and caption embeddings of a run, in a folder."""

    def __init__(self, folder: Path, adapter: FluxAdapter) -> None:
        self.folder, self._adapter = folder, adapter
        self._store, self._keys = TensorStore(folder), EncodingKeys.of(adapter)
        self.encoders = (self._keys.vae, self._keys.text)
        """Names of the two encoders' files and settings."""

    def encode(
        self,
        pairs: PairSet,
        pictures: Iterable[PanelPicture],
        captions: Iterable[str],
        *,
        is_quiet: bool = False,
        on_progress: Callable[[], None] = lambda: None,
        part: tuple[int, int] = (0, 1),
    ) -> int:
        """Encode what is not in the folder yet, each in a batch of its own; returns how many entries were made.

        `on_progress()` is called before each entry. `part` (index, count): this process's share of the work, each
        count-th entry. Encoders that nothing is missing for are never loaded.
        """
        index, count = part
        by_path = {self.latent_path(pairs, item): item for item in dict.fromkeys(pictures)}
        own_pictures = list(by_path.items())[index::count]
        own_captions = list(dict.fromkeys(captions))[index::count]
        missing_pictures = [item for path, item in own_pictures if self._store.is_missing(path)]
        missing_captions = [text for text in own_captions if self._store.is_missing(self.caption_path(text))]
        self._adapter.warn_of_cut_prompts(missing_captions)
        for text in tqdm(missing_captions, desc="captions", disable=is_quiet, leave=False):
            on_progress()
            encoded = self._adapter.encode_text([text], warns=False)
            self._store.write(
                self.caption_path(text), {"prompt_embeds": encoded.prompt_embeds, "pooled": encoded.pooled}
            )
        for item in tqdm(missing_pictures, desc="latents", disable=is_quiet, leave=False):
            on_progress()
            panel = FRAMINGS[item.role](pairs.load(item.picture_id), item.height, item.width)
            self._store.write(
                self.latent_path(pairs, item), {"tokens": self._adapter.encode_images(panel[None])}
            )
        return len(missing_pictures) + len(missing_captions)

    def latent(self, pairs: PairSet, item: PanelPicture) -> Tensor:
        """Clean tokens (1, N, C) of a panel, on the CPU. Raises FileNotFoundError for one that was not encoded."""
        return self._store.read(self.latent_path(pairs, item))["tokens"]

    def caption(self, text: str) -> TextEmbeddings:
        """The embeddings of one caption, on the CPU. Raises FileNotFoundError for one that was not encoded."""
        entry = self._store.read(self.caption_path(text))
        return TextEmbeddings(prompt_embeds=entry["prompt_embeds"], pooled=entry["pooled"])

    def latent_path(self, pairs: PairSet, item: PanelPicture) -> Path:
        """The file of a panel's latent."""
        facts = pairs.facts(item.picture_id)
        # A picture of the panel's own size is left as it is in either role: one latent serves both.
        role = "as it is" if (facts.height, facts.width) == (item.height, item.width) else item.role
        return self._store.path("latents", self._keys.picture(facts.digest, role, item.height, item.width))

    def caption_path(self, text: str) -> Path:
        """The file of a caption's embeddings."""
        return self._store.path("captions", self._keys.caption(text))
