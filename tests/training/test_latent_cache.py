"""The cache of latents and captions: made once, named by all they depend on, the same bits as encoded at once."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from divrl_core.models.flux import FluxAdapter
from divrl_core.models.panels import cover, letterbox
from divrl_core.training.files import write_atomic_bytes
from divrl_core.training.latent_cache import LatentCache, PanelPicture

from .cached_toys import (
    CAPTIONS,
    PANELS,
    TOYS,
    Pictures,
    copy_of,
    encode,
    entries,
    noise,
    open_cache,
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


# Once and no more


def test_every_entry_is_one_file_and_a_second_call_makes_none(made: Path, tiny_pipeline: Path) -> None:
    before = entries(made)
    assert len(before) == 6 and all(path.suffix == ".safetensors" for path in before)
    cache = open_cache(made, tiny_pipeline)
    paths = {cache.latent_path(TOYS, item) for item in PANELS} | {
        cache.caption_path(text) for text in CAPTIONS
    }
    assert paths == set(before)
    assert encode(cache) == 0 and encode(cache) == 0
    assert entries(made) == before


def test_encoders_are_not_loaded_when_nothing_is_missing(folder: Path, tiny_pipeline: Path) -> None:
    cache = open_cache(folder, tiny_pipeline)
    encode(cache)
    cache.latent(TOYS, PANELS[0])
    cache.caption(CAPTIONS[0])
    assert not loaded(cache)
    cache.caption_path(CAPTIONS[0]).unlink()
    assert encode(cache) == 1 and loaded(cache) == {"clip", "t5"}
    other = open_cache(folder, tiny_pipeline)
    other.latent_path(TOYS, PANELS[0]).unlink()
    assert encode(other) == 1 and loaded(other) == {"vae"}


def loaded(cache: LatentCache) -> set[str]:
    adapter = cache._adapter
    codec = adapter.__dict__.get("_codec")
    text = adapter._text.__dict__
    assert "transformer" not in adapter.__dict__
    parts = {
        "clip": "_clip" in text,
        "t5": "_t5" in text,
        "vae": codec is not None and "vae" in codec.__dict__,
    }
    return {name for name, is_loaded in parts.items() if is_loaded}


def test_each_entry_is_announced_and_what_was_made_before_a_stop_is_kept(
    tmp_path: Path, tiny_pipeline: Path
) -> None:
    calls = []

    def stop_at_the_fifth() -> None:
        calls.append(len(entries(tmp_path)))
        if len(calls) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_cache(tmp_path, tiny_pipeline).encode(
            TOYS, PANELS, CAPTIONS, is_quiet=True, on_progress=stop_at_the_fifth
        )
    assert calls == [0, 1, 2, 3, 4]
    assert encode(open_cache(tmp_path, tiny_pipeline)) == 2


def test_two_runs_may_share_a_folder(folder: Path, tiny_pipeline: Path) -> None:
    first, second = open_cache(folder, tiny_pipeline), open_cache(folder, tiny_pipeline)
    theirs = Pictures({"renamed": TOYS.pixels["tall"], "new": noise(9, 16, 16)})
    panels = (PanelPicture("renamed", "target", 32, 32), PanelPicture("new", "reference", 32, 32))
    assert encode(second, theirs, panels) == 1  # a picture is known by its pixels, not by its name
    assert encode(first) == 0
    assert first.latent(TOYS, PANELS[1]).equal(second.latent(theirs, panels[0]))
    assert encode(first, theirs, panels) == 0


# The same numbers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_entry_is_bit_for_bit_what_the_adapter_encodes(
    tmp_path: Path, tiny_pipeline: Path, dtype: str
) -> None:
    cache = open_cache(tmp_path, tiny_pipeline, dtype=dtype)
    panels = [PanelPicture(name, role, 32, 48) for name in TOYS.pixels for role in ("target", "reference")]
    cache.encode(TOYS, panels, CAPTIONS, is_quiet=True)
    again = LatentCache(tmp_path, cache._adapter)
    for item in panels:
        framed = (cover if item.role == "target" else letterbox)(TOYS.load(item.picture_id), 32, 48)
        expected = cache._adapter.encode_images(framed[None])
        assert again.latent(TOYS, item).equal(expected) and expected.shape == (1, 6, 64)
    for text in CAPTIONS:
        embeddings = cache._adapter.encode_text([text])
        assert again.caption(text).prompt_embeds.equal(embeddings.prompt_embeds)
        assert again.caption(text).pooled.equal(embeddings.pooled)


def test_an_entry_does_not_depend_on_what_is_encoded_beside_it(
    made: Path, tiny_pipeline: Path, tmp_path: Path
) -> None:
    one_by_one = open_cache(tmp_path, tiny_pipeline)
    for item in reversed(PANELS):
        assert one_by_one.encode(TOYS, [item, item], [], is_quiet=True) == 1
    for text in reversed(CAPTIONS):
        assert one_by_one.encode(TOYS, [], [text, text], is_quiet=True) == 1
    assert {path.relative_to(tmp_path): data for path, data in entries(tmp_path).items()} == {
        path.relative_to(made): data for path, data in entries(made).items()
    }


# What may go wrong


def test_damaged_entries_are_made_again_with_a_warning(
    folder: Path, tiny_pipeline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache, before = open_cache(folder, tiny_pipeline), entries(folder)
    cut, empty = cache.latent_path(TOYS, PANELS[0]), cache.caption_path(CAPTIONS[2])
    cut.write_bytes(before[cut][: len(before[cut]) // 2])
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match="a damaged entry of the cache"):
        cache.latent(TOYS, PANELS[0])
    with caplog.at_level(logging.WARNING, "divrl"):
        assert encode(cache) == 2
    for path in (cut, empty):
        assert f"{path}: a damaged entry of the cache" in caplog.text
    assert "it is made again" in caplog.text
    assert entries(folder) == before


def test_an_entry_deleted_while_the_run_goes_on_is_named_with_the_way_out(
    folder: Path, tiny_pipeline: Path
) -> None:
    cache = open_cache(folder, tiny_pipeline)
    paths = cache.latent_path(TOYS, PANELS[0]), cache.caption_path("")
    for path in paths:
        path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{paths[0].name}: no longer in the cache.*--resume"):
        cache.latent(TOYS, PANELS[0])
    with pytest.raises(FileNotFoundError, match=f"{paths[1].name}: no longer in the cache.*--resume"):
        cache.caption("")
    assert encode(cache) == 2  # as --resume does
    assert cache.latent(TOYS, PANELS[0]).isfinite().all() and len(cache.caption("")) == 1


def test_an_encoder_that_gives_no_finite_numbers_writes_nothing(tmp_path: Path, tiny_pipeline: Path) -> None:
    pipeline = copy_of(tiny_pipeline, tmp_path / "pipeline")
    shift_the_vae(pipeline, float("nan"))
    cache = open_cache(tmp_path / "cache", pipeline)
    with pytest.raises(ValueError, match=r"tokens that is not finite; try model\.dtype=float32"):
        cache.encode(TOYS, PANELS, [], is_quiet=True)
    assert not entries(tmp_path / "cache")


def test_runs_that_write_one_entry_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "entry.bin"

    def write(number: int) -> None:
        for _ in range(50):
            write_atomic_bytes(path, bytes([number]) * 1000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 1000
    assert [file.name for file in tmp_path.iterdir()] == ["entry.bin"]


def test_captions_that_are_cut_are_counted_once(
    tiny_pipeline: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = LatentCache(tmp_path, FluxAdapter.load(str(tiny_pipeline), max_text_tokens=4))
    with caplog.at_level(logging.WARNING, logger="divrl"):
        cache.encode(TOYS, [], ["a toy fox on a blue floor", "a", "a toy robot with red arms"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("2 of 3 prompts are longer than max_text_tokens=4")
