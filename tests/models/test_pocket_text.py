"""The pocket's text encoders without diffusers are those of the pipeline."""

from __future__ import annotations

import torch

from divrl_core.models.hub import open_pipeline
from divrl_core.models.pocket_text import PocketText
from divrl_core.models.text import TextEncoders

PROMPTS = ["a toy fox with a striped body on a blue floor", "x" * 300, ""]


def test_prompts_are_encoded_as_by_the_pipeline() -> None:
    expected = TextEncoders(open_pipeline("pocket"), dtype=torch.float32, device=torch.device("cpu")).encode(
        PROMPTS, warns=False
    )
    found = PocketText().encode(PROMPTS)
    assert torch.equal(found.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(found.pooled, expected.pooled)
