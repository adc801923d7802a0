"""Small runs by DiffusionNFT."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from divrl_core.config import NftConfig, TrainConfig

from .tiny_run import tiny_config


def nft_config(pipeline: Path, *, nft: dict[str, Any] | None = None, **changed: Any) -> TrainConfig:
    """`tiny_config` with algorithm=nft and two times a sample; `nft` replaces its settings."""
    fields = {"times_per_sample": 2, **(nft or {})}
    return replace(tiny_config(pipeline, **changed), algorithm="nft", nft=NftConfig(**fields))
