"""The short name of a component: other files, another name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from divrl_core.models.fingerprint import BLOCK_BYTES, component_fingerprint, path_word
from divrl_core.models.hub import PipelineFolder

SIZE = 8 * BLOCK_BYTES


def folder_of(path: Path) -> PipelineFolder:
    return PipelineFolder(path=path, classes={}, image_size_px=64)


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    for name in ("vae", "text_encoder"):
        part = tmp_path / "pipeline" / name
        part.mkdir(parents=True)
        (part / "config.json").write_text("{}")
        with (part / "model.safetensors").open("wb") as stream:
            stream.truncate(SIZE)  # zeros that take no room on the disk
    return tmp_path / "pipeline"


def flip(path: Path, place: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\x01")


def weights(pipeline: Path) -> Path:
    return pipeline / "vae" / "model.safetensors"


def shorten(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(SIZE - 1)


CHANGES: dict[str, Callable[[Path], object]] = {
    "the first byte": lambda folder: flip(weights(folder), 0),
    "the last byte of the first block": lambda folder: flip(weights(folder), BLOCK_BYTES - 1),
    "a byte in the middle": lambda folder: flip(weights(folder), SIZE // 2),
    "the last byte": lambda folder: flip(weights(folder), SIZE - 1),
    "the length": lambda folder: shorten(weights(folder)),
    "a name": lambda folder: weights(folder).rename(folder / "vae" / "other.safetensors"),
    "one file more": lambda folder: (folder / "vae" / "extra.json").write_text(""),
    "one file less": lambda folder: (folder / "vae" / "config.json").unlink(),
    "a small file": lambda folder: (folder / "vae" / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_of_a_components_files_changes_its_name_and_no_others(
    pipeline: Path, change: Callable[[Path], object]
) -> None:
    folder = folder_of(pipeline)
    vae, text = component_fingerprint(folder, "vae"), component_fingerprint(folder, "text_encoder")
    both = component_fingerprint(folder, "vae", "text_encoder")
    change(pipeline)
    assert component_fingerprint(folder, "vae") != vae
    assert component_fingerprint(folder, "text_encoder") == text
    assert component_fingerprint(folder, "vae", "text_encoder") != both


def test_a_name_depends_on_content_and_component_not_on_place_or_date(pipeline: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(pipeline, moved, copy_function=shutil.copyfile)
    assert component_fingerprint(folder_of(moved), "vae") == component_fingerprint(folder_of(pipeline), "vae")
    # Two components of the same files are two components.
    names = {component_fingerprint(folder_of(pipeline), part) for part in ("vae", "text_encoder")}
    assert len(names) == 2


def test_large_files_are_read_at_three_places_alone(pipeline: Path) -> None:
    before = component_fingerprint(folder_of(pipeline), "vae")
    flip(weights(pipeline), 2 * BLOCK_BYTES)
    assert component_fingerprint(folder_of(pipeline), "vae") == before


def test_small_files_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "vae" / "model.safetensors"
    path.parent.mkdir()
    names = set()
    for place in range(0, 2 * BLOCK_BYTES, BLOCK_BYTES // 4):
        path.write_bytes(bytes(2 * BLOCK_BYTES))
        flip(path, place)
        names.add(component_fingerprint(folder_of(tmp_path), "vae"))
    assert len(names) == 8


def test_the_real_parts_of_a_pipeline_have_names_of_their_own(tiny_pipeline: Path) -> None:
    folder = folder_of(tiny_pipeline)
    parts = ("vae", "transformer", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    assert len({component_fingerprint(folder, part) for part in parts}) == len(parts)


def test_a_path_to_weights_is_told_by_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(100))
    monkeypatch.chdir(tmp_path)
    word = path_word(str(folder))
    assert word.startswith("vit (") and path_word("vit") == word == path_word("./vit/")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").touch()
    assert path_word("vit") == word
    flip(weights, 50)
    assert path_word("vit") != word
    assert path_word("vit/model.safetensors").startswith("model.safetensors (")
    assert path_word("owner/vit") == "owner/vit"
