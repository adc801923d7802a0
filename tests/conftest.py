"""What several rooms' tests share: a real Kontext pipeline, tiny and untrained, on disk."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

SENTENCES = [
    "a toy fox with a striped body on a blue floor",
    "a toy robot with red arms, seen on a green floor",
    "a photo of 3 dogs in the snow",
]


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FluxKontextPipeline of width 128, one double and one single block, made for 64 px. Read only."""
    import torch

    from divrl_core.models.pocket_parts import build_pipeline, build_transformer, build_vae

    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    with torch.random.fork_rng():
        transformer = build_transformer(seed=0, heads=1, double_blocks=1, single_blocks=1)
        build_pipeline(build_vae(seed=1), transformer, SENTENCES, seed=2).save_pretrained(folder)
    (folder / "divrl.json").write_text(json.dumps({"image_size_px": 64}))
    return folder
