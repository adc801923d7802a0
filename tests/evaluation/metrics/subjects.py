"""References and pictures as scorers are given them: a disc on a floor of noise, in any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from divrl_core.evaluation.benchmarks.base import Question, View
from divrl_core.evaluation.metrics.base import Shot, Subject
from divrl_core.training.references import PromptPair


def noise(seed: int, height: int = 64, width: int = 64, cells: int = 8) -> Image.Image:
    """Soft coloured noise, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, cells, cells, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((fine.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def middle(height: int = 64, width: int = 64, margin: float = 0.25) -> Tensor:
    """A mask of the middle of a picture."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    top, left = int(height * margin), int(width * margin)
    mask[top : height - top, left : width - left] = True
    return mask


def subject(
    name: str = "fox", seed: int = 0, height: int = 64, width: int = 64, views: Sequence[int] = ()
) -> Subject:
    """A reference of noise with its middle as the mask; views: the seeds of its further pictures."""
    further = tuple(View(where=f"view {one}", load=lambda one=one: noise(one)) for one in views)  # type: ignore[misc]
    return Subject(
        reference_id=name, picture=noise(seed, height, width), mask=middle(height, width), views=further
    )


def question(name: str = "fox", number: int = 0, prompt: str | None = None) -> Question:
    """A question about a reference."""
    text = prompt or f"a toy {name} on floor {number}"
    return Question(pair=PromptPair(f"{name}#{number}", name, text), number=number)


def shot(
    picture: Image.Image, number: int = 0, k: int = 0, *, name: str = "fox", mask: Tensor | None = None
) -> Shot:
    """A picture as the answer to a question."""
    return Shot(picture=picture, question=question(name, number), k=k, mask=mask)
