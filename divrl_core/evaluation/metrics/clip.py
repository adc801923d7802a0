"""CLIP-T and CLIP-I: does the picture show what the prompt says, and is it like the reference?

    CLIP-T = cos(picture, prompt)        CLIP-I = cos(picture, reference)

of CLIP's projected embeddings of whole pictures, no mask; ViT-L/14 in arXiv:2606.23950, appendix B. As DreamBench++
(arXiv:2406.16855) measures it, not times 100: pictures as CLIP's own processor crops them (shorter edge to 224 px, the
middle square), prompts cut to 77 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...models.features.clip_pair import DEFAULT, PURPOSE, ClipPair, check_clip
from ...models.features.vision_files import known_files
from .base import Metric, Shot, Subject, Values

CLIP_T = Metric(
    name="clip_t",
    label="CLIP-T",
    meaning="cosine of picture and prompt",
    better="higher",
    family="prompt",
)
CLIP_I = Metric(
    name="clip_i",
    label="CLIP-I",
    meaning="cosine of the whole picture and the whole reference",
    better="higher",
    family="identity",
)


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of row and row: (B, D), (B, D) or (1, D) -> (B,) in [-1, 1], float32 or better; NaN for a zero vector."""
    dtype = torch.promote_types(first.dtype, torch.float32)
    first, second = first.to(dtype), second.to(dtype)
    return (first * second).sum(dim=1) / (first.norm(dim=1) * second.norm(dim=1))


@dataclass
class PreparedTexts:
    """A reference's vector (1, D) and those of the prompts about it, each made once."""

    reference: Tensor
    prompts: dict[str, Tensor] = field(default_factory=dict)


class ClipScorer:
    """CLIP-T and CLIP-I from one pass of one CLIP."""

    name = "clip"
    metrics = (CLIP_T, CLIP_I)

    def __init__(self, clip: ClipPair) -> None:
        self._clip = clip

    @classmethod
    def load(cls, path: str | None = None, *, device: str = "cpu") -> ClipScorer:
        """From a folder or hub id; None = ViT-L/14. Raises as `ClipPair.load` does."""
        return cls(ClipPair.load(path, device=device))

    @staticmethod
    def check(path: str | None = None, *, downloads: bool = False) -> None:
        """Raise, in one line, where the files are known to be no whole CLIP's; a hub id is fetched or passed over."""
        files = known_files(PURPOSE, path or DEFAULT, downloads=downloads)
        if files is not None:
            check_clip(files)

    @property
    def source(self) -> str:
        """The model's origin and what it is shown."""
        return f"CLIP ({self._clip.origin}), {self._clip.processor.about}"

    def prepare(self, subject: Subject) -> PreparedTexts:
        """The reference's vector."""
        return PreparedTexts(self._clip.pictures([subject.picture]))

    def score(self, shots: Sequence[Shot], prepared: object) -> Values:
        """Both of every picture."""
        assert isinstance(prepared, PreparedTexts)
        prompts = [shot.question.pair.prompt for shot in shots]
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in prepared.prompts]
        if new:
            prepared.prompts.update(zip(new, self._clip.texts(new).split(1), strict=True))
        texts = torch.cat([prepared.prompts[prompt] for prompt in prompts])
        pictures = self._clip.pictures([shot.picture for shot in shots])
        return {
            CLIP_T.name: cosines(pictures, texts).cpu(),
            CLIP_I.name: cosines(pictures, prepared.reference).cpu(),
        }
