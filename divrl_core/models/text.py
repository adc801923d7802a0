"""FLUX's two text encoders: in memory while prompts are encoded, then dropped."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from functools import cached_property

import torch
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from .components import load_module
from .conditioning import TextEmbeddings
from .hub import PipelineFolder
from .token_ids import token_ids

logger = logging.getLogger("divrl")

FULL_TEXT_TOKENS = 128  # the public configuration's; a pocket tokenizer asks for less
MOST_TEXT_TOKENS = 512  # what FLUX was trained with


class TextEncoders:
    """CLIP (pooled) and T5 (token by token), each loaded when first needed and freed by `drop`."""

    def __init__(
        self,
        folder: PipelineFolder,
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_tokens: int | None = None,
    ) -> None:
        if max_tokens is not None and not 1 <= max_tokens <= MOST_TEXT_TOKENS:
            raise ValueError(f"max_text_tokens must be in 1..{MOST_TEXT_TOKENS}, got {max_tokens}")
        self._folder, self._dtype, self._device = folder, dtype, device
        self.max_tokens = max_tokens or min(self._t5_tokenizer.model_max_length, FULL_TEXT_TOKENS)

    @cached_property
    def _clip_tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(str(self._folder.path / "tokenizer"), local_files_only=True)

    @cached_property
    def _t5_tokenizer(self) -> T5TokenizerFast:
        return T5TokenizerFast.from_pretrained(str(self._folder.path / "tokenizer_2"), local_files_only=True)

    @cached_property
    def _clip(self) -> CLIPTextModel:
        return load_module(
            self._folder, "text_encoder", CLIPTextModel, dtype=self._dtype, device=self._device
        )

    @cached_property
    def _t5(self) -> T5EncoderModel:
        return load_module(
            self._folder, "text_encoder_2", T5EncoderModel, dtype=self._dtype, device=self._device
        )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, micro_batch: int = 16, warns: bool = True) -> TextEmbeddings:
        """Encode prompts, padded or cut to `max_tokens` T5 tokens.

        No attention mask is used, as FLUX was trained: the padding takes part, so a model must see one length
        in training and in use. With `warns` prompts that are cut are counted in the log.
        """
        if isinstance(prompts, str) or not prompts:
            raise ValueError(f"encode_text: needs a list of one or more prompts, got {prompts!r}")
        clip_ids = token_ids(self._clip_tokenizer, prompts, self._clip_tokenizer.model_max_length)
        t5_ids = token_ids(self._t5_tokenizer, prompts, self.max_tokens)
        if warns:
            self.warn_of_cut_prompts(prompts)
        pooled = [
            self._clip(ids.to(self._device)).pooler_output for ids in torch.split(clip_ids, micro_batch)
        ]
        embeds = [
            self._t5(ids.to(self._device)).last_hidden_state for ids in torch.split(t5_ids, micro_batch)
        ]
        return TextEmbeddings(
            prompt_embeds=torch.cat(embeds).to(self._dtype), pooled=torch.cat(pooled).to(self._dtype)
        )

    def drop(self) -> None:
        """Free both encoders; the next `encode` would load them again."""
        self.__dict__.pop("_clip", None)
        self.__dict__.pop("_t5", None)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def warn_of_cut_prompts(self, prompts: Sequence[str]) -> None:
        """Say in the log how many prompts are longer than `max_tokens`; nothing when none is."""
        lengths = [len(ids) for ids in self._t5_tokenizer(list(prompts), verbose=False).input_ids]
        cut = sum(length > self.max_tokens for length in lengths)
        if cut:
            logger.warning(
                "%d of %d prompts are longer than max_text_tokens=%d and are cut (the longest has %d tokens)",
                cut, len(prompts), self.max_tokens, max(lengths),
            )  # fmt: skip
