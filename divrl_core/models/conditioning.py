"""What a Kontext model is told beside the noisy picture: the prompt and the reference, encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class TextEmbeddings:
    """B encoded prompts, all padded or cut to the same number of tokens L."""

    prompt_embeds: Tensor
    """T5's last layer, (B, L, D)."""
    pooled: Tensor
    """CLIP's pooled output, (B, P)."""

    def __len__(self) -> int:
        return self.prompt_embeds.shape[0]

    def select(self, samples: int | slice | Sequence[int] | Tensor) -> TextEmbeddings:
        """Some of the prompts, in the order asked for; an int keeps the batch dimension."""
        rows = _rows(samples)
        return TextEmbeddings(prompt_embeds=self.prompt_embeds[rows], pooled=self.pooled[rows])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> TextEmbeddings:
        """The same on another device, in another dtype, or both."""
        return TextEmbeddings(
            prompt_embeds=self.prompt_embeds.to(device=device, dtype=dtype),
            pooled=self.pooled.to(device=device, dtype=dtype),
        )


@dataclass(frozen=True)
class Conditioning:
    """Prompts and references of B samples; the ids are shared by all of them."""

    prompt_embeds: Tensor
    """(B, L, D)."""
    pooled: Tensor
    """(B, P)."""
    text_ids: Tensor
    """(L, 3), float32."""
    reference_tokens: Tensor
    """Clean packed latents of the references, (B, M, C)."""
    reference_ids: Tensor
    """(M, 3), float32."""

    def __len__(self) -> int:
        return self.prompt_embeds.shape[0]

    def repeat(self, times: int) -> Conditioning:
        """Every sample `times` times, copies beside each other: a, a, b, b for two samples and times = 2."""
        if times < 1:
            raise ValueError(f"Conditioning.repeat: times must be at least 1, got {times}")
        return replace(
            self,
            prompt_embeds=self.prompt_embeds.repeat_interleave(times, 0),
            pooled=self.pooled.repeat_interleave(times, 0),
            reference_tokens=self.reference_tokens.repeat_interleave(times, 0),
        )

    def select(self, samples: int | slice | Sequence[int] | Tensor) -> Conditioning:
        """Some of the samples, in the order asked for; an int keeps the batch dimension."""
        rows = _rows(samples)
        return replace(
            self,
            prompt_embeds=self.prompt_embeds[rows],
            pooled=self.pooled[rows],
            reference_tokens=self.reference_tokens[rows],
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The samples of all parts, one after the other.

        Raises ValueError when there is none, or when prompts or references differ in size.
        """
        if not parts:
            raise ValueError("Conditioning.cat: needs at least one part, got none")
        first = parts[0]
        for part in parts[1:]:
            for name in ("text_ids", "reference_ids"):
                mine, other = getattr(first, name), getattr(part, name)
                if mine.shape != other.shape or not torch.equal(mine, other.to(mine.device)):
                    raise ValueError(
                        f"Conditioning.cat: all parts must share their {name}, got {tuple(mine.shape)} and "
                        f"{tuple(other.shape)}; encode with one text length and one reference size"
                    )
        return replace(
            first,
            prompt_embeds=torch.cat([part.prompt_embeds for part in parts]),
            pooled=torch.cat([part.pooled for part in parts]),
            reference_tokens=torch.cat([part.reference_tokens for part in parts]),
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Conditioning:
        """The same on another device, in another dtype, or both; ids stay float32."""
        return Conditioning(
            prompt_embeds=self.prompt_embeds.to(device=device, dtype=dtype),
            pooled=self.pooled.to(device=device, dtype=dtype),
            text_ids=self.text_ids.to(device=device),
            reference_tokens=self.reference_tokens.to(device=device, dtype=dtype),
            reference_ids=self.reference_ids.to(device=device),
        )


def _rows(samples: int | slice | Sequence[int] | Tensor) -> slice | list[int] | Tensor:
    if isinstance(samples, Tensor | slice):
        return samples
    return [samples] if isinstance(samples, int) else list(samples)
