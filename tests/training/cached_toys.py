"""Toy pictures and captions with a cache of their latents, on the tiny pipeline."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from divrl_core.models.flux import FluxAdapter
from divrl_core.training.latent_cache import LatentCache, PanelPicture
from divrl_core.training.pair_set import PictureFacts, TrainingPair, digest_of

CAPTIONS = ("a toy fox on a blue floor", "", "a toy robot")


@dataclass(frozen=True)
class Pictures:
    """Pictures (3, H, W) of bytes in memory, as a set without pairs."""

    pixels: dict[str, Tensor]
    pairs: tuple[TrainingPair, ...] = ()

    def facts(self, picture_id: str) -> PictureFacts:
        pixels = self.pixels[picture_id]
        return PictureFacts(digest_of(pixels), pixels.shape[1], pixels.shape[2])

    def load(self, picture_id: str) -> Tensor:
        return self.pixels[picture_id].float() / 255


def noise(seed: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


TOYS = Pictures({"square": noise(0, 32, 32), "tall": noise(1, 40, 20), "wide": noise(2, 24, 50)})
PANELS = (
    PanelPicture("square", "target", 32, 32),
    PanelPicture("tall", "target", 32, 32),
    PanelPicture("wide", "reference", 32, 32),
)


def open_cache(folder: Path, pipeline: Path, **settings: Any) -> LatentCache:
    """A cache with an adapter that has loaded nothing yet."""
    return LatentCache(folder, FluxAdapter.load(str(pipeline), **settings))


def encode(cache: LatentCache, pairs: Pictures = TOYS, panels: tuple[PanelPicture, ...] = PANELS) -> int:
    return cache.encode(pairs, panels, CAPTIONS, is_quiet=True)


def entries(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def copy_of(pipeline: Path, folder: Path) -> Path:
    """The same files again, without a second copy of those that are not changed."""
    shutil.copytree(pipeline, folder, copy_function=lambda source, target: Path(target).symlink_to(source))
    return folder


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()  # a link to the pipeline that all tests share
    path.write_bytes(data)


def shift_the_vae(pipeline: Path, by: float = 0.5) -> None:
    """Another VAE, by one weight of the encoder's first layer."""
    path = pipeline / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["encoder.layers.0.bias"][0] += by
    path.unlink()
    save_file(weights, path, metadata={"format": "pt"})
