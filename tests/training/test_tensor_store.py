"""Entries of a cache: in a folder that processes share, or in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from divrl_core.training.tensor_store import TensorStore


@pytest.mark.parametrize("is_on_disk", [False, True])
def test_what_was_written_is_read_and_what_was_not_is_missing(tmp_path: Path, is_on_disk: bool) -> None:
    store = TensorStore(tmp_path if is_on_disk else None)
    path, other = store.path("latents", "a fox"), store.path("latents", "another fox")
    assert path != other and store.is_missing(path)
    store.write(path, {"tokens": torch.arange(6.0).reshape(2, 3)})
    assert not store.is_missing(path) and store.is_missing(other)
    assert torch.equal(store.read(path)["tokens"], torch.arange(6.0).reshape(2, 3))
    with pytest.raises(FileNotFoundError, match="no longer in the cache"):
        store.read(other)


def test_a_store_in_memory_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = TensorStore(None)
    store.write(store.path("captions", "x"), {"t": torch.ones(2)})
    assert not list(tmp_path.iterdir())


def test_two_stores_of_one_folder_see_each_others_entries(tmp_path: Path) -> None:
    first, second = TensorStore(tmp_path), TensorStore(tmp_path)
    first.write(first.path("captions", "x"), {"t": torch.ones(2)})
    assert not second.is_missing(second.path("captions", "x"))
    assert torch.equal(second.read(second.path("captions", "x"))["t"], torch.ones(2))


def test_an_entry_that_was_cut_short_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = TensorStore(tmp_path)
    path = store.path("latents", "a fox")
    store.write(path, {"tokens": torch.ones(8)})
    path.write_bytes(path.read_bytes()[:-4])
    assert store.is_missing(path)
    assert "damaged entry" in caplog.text


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    store = TensorStore(tmp_path)
    with pytest.raises(ValueError, match="tokens that is not finite"):
        store.write(store.path("latents", "a"), {"tokens": torch.tensor([1.0, torch.nan])})
