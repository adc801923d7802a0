"""What an entry of the cache depends on: a change misses just what would be encoded otherwise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from divrl_core.training.latent_cache import PanelPicture

from .cached_toys import (
    CAPTIONS,
    PANELS,
    TOYS,
    Pictures,
    copy_of,
    encode,
    entries,
    open_cache,
    rewrite,
    shift_the_vae,
)


@pytest.fixture(scope="module")
def made(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the toys' entries. Read only."""
    folder = tmp_path_factory.mktemp("cache")
    assert encode(open_cache(folder, tiny_pipeline)) == len(PANELS) + len(CAPTIONS)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it to write to."""
    return Path(shutil.copytree(made, tmp_path / "cache"))


def test_a_changed_picture_misses_only_its_own_entry(folder: Path, tiny_pipeline: Path) -> None:
    pixels = TOYS.pixels["tall"].clone()
    pixels[0, 0, 0] ^= 1
    changed = Pictures({**TOYS.pixels, "tall": pixels})
    cache, before = open_cache(folder, tiny_pipeline), entries(folder)
    assert encode(cache, changed) == 1
    after = entries(folder)
    assert set(after) - set(before) == {cache.latent_path(changed, PANELS[1])}
    assert encode(cache, TOYS) == 0  # and the old one is still there


def append_space(name: str) -> Callable[[Path], None]:
    return lambda pipeline: rewrite(pipeline / name, (pipeline / name).read_bytes() + b"\n")


@pytest.mark.parametrize(
    ("change", "settings", "latents", "captions"),
    [
        (lambda pipeline: None, {}, 0, 0),
        (lambda pipeline: None, {"dtype": "bfloat16"}, 3, 3),
        (lambda pipeline: None, {"max_text_tokens": 7}, 0, 3),
        (lambda pipeline: None, {"layout": "width"}, 0, 0),
        (shift_the_vae, {}, 3, 0),
        (append_space("vae/config.json"), {}, 3, 0),
        (append_space("text_encoder/config.json"), {}, 0, 3),
        (append_space("text_encoder_2/config.json"), {}, 0, 3),
        (append_space("tokenizer/tokenizer.json"), {}, 0, 3),
        (append_space("tokenizer_2/tokenizer.json"), {}, 0, 3),
        (append_space("transformer/config.json"), {}, 0, 0),
    ],
    ids=[
        "nothing", "dtype", "text length", "layout", "VAE weight", "VAE config", "CLIP", "T5", "CLIP tokens",
        "T5 tokens", "transformer",
    ],
)  # fmt: skip
def test_another_model_misses_just_what_it_would_encode_otherwise(
    folder: Path,
    tiny_pipeline: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    settings: dict[str, Any],
    latents: int,
    captions: int,
) -> None:
    pipeline = copy_of(tiny_pipeline, tmp_path / "pipeline")
    change(pipeline)
    cache = open_cache(folder, pipeline, **settings)
    missing = [not cache.latent_path(TOYS, item).exists() for item in PANELS]
    blank = [not cache.caption_path(text).exists() for text in CAPTIONS]
    assert (sum(missing), sum(blank)) == (latents, captions)
    if "dtype" in settings or change is shift_the_vae:
        old = open_cache(folder, tiny_pipeline)
        assert encode(cache) == latents + captions
        assert cache.latent(TOYS, PANELS[0]).dtype == cache._adapter.dtype
        assert not cache.latent(TOYS, PANELS[0]).float().equal(old.latent(TOYS, PANELS[0]))


def test_another_panel_size_misses_only_latents(folder: Path, tiny_pipeline: Path) -> None:
    larger = tuple(PanelPicture(item.picture_id, item.role, 32, 48) for item in PANELS)
    assert encode(open_cache(folder, tiny_pipeline), TOYS, larger) == 3


def test_a_picture_of_the_panels_own_size_serves_both_roles_and_any_other_has_an_entry_for_each(
    folder: Path, tiny_pipeline: Path
) -> None:
    cache = open_cache(folder, tiny_pipeline)
    square, mirrored = (PanelPicture("square", role, 32, 32) for role in ("target", "reference"))
    assert encode(cache, TOYS, (square, mirrored)) == 0
    assert cache.latent_path(TOYS, square) == cache.latent_path(TOYS, mirrored)
    filled, fitted = (PanelPicture("wide", role, 32, 32) for role in ("target", "reference"))
    assert encode(cache, TOYS, (filled, fitted)) == 1  # the reference was there
    assert not cache.latent(TOYS, filled).equal(cache.latent(TOYS, fitted))
    items = [
        PanelPicture(name, role, height, width)
        for name, role, height, width in product(TOYS.pixels, ("target", "reference"), (16, 32), (32, 48))
    ]
    assert len({cache.latent_path(TOYS, item) for item in items}) == len(items) - 1  # all but the square one
