"""The last block, which need not answer for the text and the reference: only the target's velocity is read.

It still reads every token of its input (they are keys and values), but asks, and goes through the feed-forward, for the
target's alone: the same numbers for those, up to rounding. In FLUX.1 this is one block of 57, in a tiny model one of 6.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, FluxSingleTransformerBlock
from torch import Tensor, nn


class SomeQueries(FluxAttnProcessor):  # type: ignore[misc]
    """diffusers' attention of a single block, asked by some of its tokens: `rows`, or None for all."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        rows: slice | None = None,
    ) -> Tensor:
        """Of (B, T, D) tokens, the answers to `rows`, (B, len(rows), D)."""
        if rows is None or image_rotary_emb is None:
            return super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        split = (-1, attn.head_dim)
        query = attn.norm_q(attn.to_q(hidden_states[:, rows]).unflatten(-1, split))
        key = attn.norm_k(attn.to_k(hidden_states).unflatten(-1, split))
        value = attn.to_v(hidden_states).unflatten(-1, split)
        cos, sin = image_rotary_emb
        query = apply_rotary_emb(query, (cos[rows], sin[rows]), sequence_dim=1)
        key = apply_rotary_emb(key, image_rotary_emb, sequence_dim=1)
        answer = dispatch_attention_fn(query, key, value, backend=self._attention_backend)
        return answer.flatten(2, 3).to(query.dtype)


class LastBlock(FluxSingleTransformerBlock):  # type: ignore[misc]
    """diffusers' block with its own weights; `target_tokens`: the first N picture tokens, or None for all."""

    target_tokens: int | None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As diffusers', with the picture's tokens cut to the target's, (B, N, D)."""
        if self.target_tokens is None or joint_attention_kwargs:
            return super().forward(  # type: ignore[no-any-return]
                hidden_states, encoder_hidden_states, temb, image_rotary_emb, joint_attention_kwargs
            )
        start = encoder_hidden_states.shape[1]
        rows = slice(start, start + self.target_tokens)
        whole = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(whole, emb=temb)
        attended = self.attn(hidden_states=normed, image_rotary_emb=image_rotary_emb, rows=rows)
        joined = torch.cat([attended, self.act_mlp(self.proj_mlp(normed[:, rows]))], dim=2)
        return encoder_hidden_states, whole[:, rows] + gate.unsqueeze(1) * self.proj_out(joined)


def prepare_last_block(transformer: nn.Module) -> None:
    """Let the last single block answer for the target alone, where `answer_for` says so; weights and names stay."""
    blocks = getattr(transformer, "single_transformer_blocks", None)
    if blocks is not None and len(blocks) and type(blocks[-1]) is FluxSingleTransformerBlock:
        blocks[-1].__class__ = LastBlock
        blocks[-1].attn.set_processor(SomeQueries())
        blocks[-1].target_tokens = None


def answer_for(transformer: nn.Module, target_tokens: int | None) -> None:
    """Say for how many of the picture's tokens an answer is wanted, from now on; None: for all.

    A recomputation (gradient checkpointing) must find what its forward pass had; torch refuses another shape.
    """
    blocks = getattr(transformer, "single_transformer_blocks", None)
    if blocks is not None and len(blocks) and isinstance(blocks[-1], LastBlock):
        blocks[-1].target_tokens = target_tokens
