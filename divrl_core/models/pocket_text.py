"""The pocket's two text encoders through transformers alone, for hosts that have no diffusers.

The same token ids, padding and outputs as `text.py`: CLIP's pooled output, T5 token by token without a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast
from transformers.utils import logging as transformers_logging

from .conditioning import TextEmbeddings
from .model_names import POCKET_FOLDER
from .token_ids import token_ids


class PocketText:
    """Encodes prompts for the pocket models, in float32. Everything is loaded when first used."""

    @cached_property
    def tokenizers(self) -> tuple[CLIPTokenizer, T5TokenizerFast]:
        """CLIP's and T5's."""
        return (
            CLIPTokenizer.from_pretrained(str(POCKET_FOLDER / "tokenizer"), local_files_only=True),
            T5TokenizerFast.from_pretrained(str(POCKET_FOLDER / "tokenizer_2"), local_files_only=True),
        )

    @cached_property
    def encoders(self) -> nn.ModuleList:
        """CLIP's and T5's encoders, frozen."""
        shows_bars = transformers_logging.is_progress_bar_enabled()
        transformers_logging.disable_progress_bar()
        try:
            parts = [
                kind.from_pretrained(str(POCKET_FOLDER / part), dtype=torch.float32, local_files_only=True)
                for kind, part in ((CLIPTextModel, "text_encoder"), (T5EncoderModel, "text_encoder_2"))
            ]
        finally:
            if shows_bars:
                transformers_logging.enable_progress_bar()
        return nn.ModuleList(parts).eval().requires_grad_(False)

    def encode(self, prompts: Sequence[str]) -> TextEmbeddings:
        """T5's tokens (B, L, D) and CLIP's pooled output (B, P), prompts padded or cut to the pocket's L tokens."""
        return TextEmbeddings(prompt_embeds=self.token_embeddings(prompts), pooled=self.pooled(prompts))

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> Tensor:
        """CLIP's pooled output (B, P)."""
        result: Tensor = self.encoders[0](self._ids(0, prompts)).pooler_output
        return result

    @torch.no_grad()
    def token_embeddings(self, prompts: Sequence[str]) -> Tensor:
        """T5's last layer (B, L, D)."""
        result: Tensor = self.encoders[1](self._ids(1, prompts)).last_hidden_state
        return result

    def _ids(self, number: int, prompts: Sequence[str]) -> Tensor:
        tokenizer = self.tokenizers[number]
        ids = token_ids(tokenizer, prompts, tokenizer.model_max_length)
        return ids.to(next(self.encoders.parameters()).device)
