"""Masks by a segmentation model in training: who wins, what is kept, what is told."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.modules.module import register_module_forward_hook

from divrl_core.config import DataConfig, SegmenterConfig, TrainConfig
from divrl_core.training.data import RunData, open_data
from divrl_core.training.grpo_loop import train
from divrl_core.training.model_masks import ModelMasks
from divrl_core.training.picture_references import CheckedSource, PictureReferences
from divrl_core.training.preflight import check
from divrl_core.training.references import DataProblems
from tests.models.small_segmenters import onnx_file, segformer

from .tiny_run import rows_of, tiny_config

SIZE_PX = 32


def blots(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def photographs(folder: Path, count: int = 6) -> Path:
    """Blots with captions: toy-0 has a mask file, toy-1 an alpha channel, the others no mask."""
    (folder / "masks").mkdir(parents=True)
    for place in range(count):
        picture = blots(place)
        if place == 1:
            alpha = Image.new("L", picture.size, 0)
            alpha.paste(255, (8, 4, 32, 28))
            picture.putalpha(alpha)
        picture.save(folder / f"toy-{place}.png")
        (folder / f"toy-{place}.txt").write_text(f"a toy\na toy on floor {place}\n")
    mask = Image.new("L", (40, 32), 0)
    mask.paste(255, (4, 0, 36, 16))
    mask.save(folder / "masks" / "toy-0.png")
    return folder


@contextmanager
def counted_forwards() -> Iterator[list[str]]:
    """How often a Segformer is asked, while this lasts."""
    asked: list[str] = []

    def count(module: torch.nn.Module, *_: object) -> None:
        if isinstance(module, transformers.SegformerForSemanticSegmentation):
            asked.append(type(module).__name__)

    handle = register_module_forward_hook(count)
    try:
        yield asked
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Segformer to which every pixel is a dog."""
    return segformer(tmp_path_factory.mktemp("everything"), answer=2)


def opened(folder: Path, model: Path, **settings: object) -> RunData:
    segmenter = SegmenterConfig(model=str(model), **settings)
    return open_data(DataConfig(source=str(folder), held_out_references=1, segmenter=segmenter))


def all_of(data: RunData) -> tuple[ModelMasks, list[CheckedSource], list[PictureReferences]]:
    sets = [data.train, data.held_out]
    assert all(isinstance(one, PictureReferences) for one in sets)
    (masks,) = {one.model_masks for one in sets}  # type: ignore[union-attr]
    return masks, [item for one in sets for item in one.for_the_model()], sets  # type: ignore


def test_files_and_alpha_win_over_the_model_and_all_are_counted(tmp_path: Path, everything: Path) -> None:
    photographs(tmp_path / "photos")
    masks, items, (train_set, held_out) = all_of(opened(tmp_path / "photos", everything))
    counts = [one.mask_counts for one in (train_set, held_out)]
    total = {name: sum(count.get(name, 0) for count in counts) for name in ("files", "alpha", "model")}
    assert total == {"files": 1, "alpha": 1, "model": 4}
    with counted_forwards() as asked:
        assert masks.make(items, folder=tmp_path / "cache") == []
    assert len(asked) == 4
    found = {
        reference_id: one.decoded(reference_id)[1]
        for one in (train_set, held_out)
        for reference_id in one.reference_ids
    }
    assert found["toy-0"].sum() == 32 * 16 and found["toy-1"].sum() == 24 * 24
    assert all(found[f"toy-{place}"].all() for place in range(2, 6))


def test_a_mask_is_that_of_the_rule_and_is_framed_with_its_picture(tmp_path: Path) -> None:
    """The red part of a wide picture: rows 8 to 23, columns 16 to 31 of 40; the middle square begins at column 4."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "photos"
    folder.mkdir()
    for place in range(2):
        picture = Image.new("RGB", (40, 32), (0, 255, place))
        picture.paste((255, 0, 0), (16, 8, 32, 24))
        picture.save(folder / f"toy-{place}.png")
        (folder / f"toy-{place}.txt").write_text("a toy\n")
    model = onnx_file(tmp_path / "red.onnx", sides=(32, 40))
    masks, items, sets = all_of(opened(folder, model, normalisation="none"))
    assert masks.make(items) == []
    for one in sets:
        (reference_id,) = one.reference_ids
        expected = np.zeros((32, 40), dtype=bool)
        expected[8:24, 16:32] = True
        assert np.array_equal(one.decoded(reference_id)[1], expected)
        reference = one.load(reference_id, 32)
        assert torch.equal(reference.mask, torch.from_numpy(expected[:, 4:36]))
        assert (reference.image[0][reference.mask] == 1).all()


def test_a_second_start_asks_the_model_nothing_until_a_picture_or_setting_changes(
    tmp_path: Path, everything: Path
) -> None:
    folder, cache = photographs(tmp_path / "photos"), tmp_path / "cache"

    def asked_by_a_start(**settings: object) -> int:
        masks, items, _ = all_of(opened(folder, everything, **settings))
        with counted_forwards() as asked:
            assert masks.make(items, folder=cache) == []
        return len(asked)

    assert [asked_by_a_start() for _ in range(2)] == [4, 0]
    assert asked_by_a_start(threshold=0.25) == 4
    assert [asked_by_a_start(labels="dog") for _ in range(2)] == [4, 0]
    blots(77).save(folder / "toy-3.png")
    assert asked_by_a_start() == 1
    segformer(everything.parent / "again", answer=2)  # the same content in another folder
    masks, items, _ = all_of(opened(folder, everything.parent / "again"))
    with counted_forwards() as asked:
        masks.make(items, folder=cache)
    assert asked == []


def test_processes_share_the_work_and_read_each_other_s_masks(tmp_path: Path, everything: Path) -> None:
    folder, cache = photographs(tmp_path / "photos"), tmp_path / "cache"
    starts = [all_of(opened(folder, everything)) for _ in range(3)]
    with counted_forwards() as asked:
        for index, (masks, items, _) in enumerate(starts):
            masks.make(items, folder=cache, part=(index, 3))
    assert len(asked) == 4
    for masks, items, _ in starts:
        assert all(masks.read(item.digest).all() for item in items)


def test_a_damaged_entry_is_made_again(tmp_path: Path, everything: Path) -> None:
    folder, cache = photographs(tmp_path / "photos"), tmp_path / "cache"
    for expected in (4, 1):
        masks, items, _ = all_of(opened(folder, everything))
        with counted_forwards() as asked:
            masks.make(items, folder=cache)
        assert len(asked) == expected
        entry = next(cache.rglob("*.safetensors"))
        entry.write_bytes(entry.read_bytes()[:-3])


def run_settings(pipeline: Path, folder: Path, model: Path, **settings: object) -> TrainConfig:
    segmenter = SegmenterConfig(model=str(model), **settings)
    data = DataConfig(source=str(folder), held_out_references=1, segmenter=segmenter)
    config = tiny_config(pipeline, kind="nssm", run={"updates": 1, "eval_every_updates": 1})
    return replace(config, data=data)


def test_a_run_makes_its_masks_first_and_a_resumed_one_does_not(
    tiny_pipeline: Path, tmp_path: Path, everything: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, output = photographs(tmp_path / "photos"), tmp_path / "run"
    config = run_settings(tiny_pipeline, folder, everything)
    with counted_forwards() as asked, caplog.at_level(logging.INFO, "divrl"):
        train(config, output, data=check(config))
        first = len(asked)
        train(config, output, resume=True)
        assert len(asked) == first > 0
        train(replace(config, run=replace(config.run, updates=6)), output, resume=True)
    assert first < len(asked) == 4  # the others when they are met
    began = next(place for place, line in enumerate(caplog.messages) if line.startswith("masks of "))
    assert began < next(place for place, line in enumerate(caplog.messages) if "loading transformer" in line)
    assert "SegformerForSemanticSegmentation; the subject: all but background" in caplog.messages[began]
    assert "1 files, 1 alpha, 3 model (train), model (held out)" in caplog.text
    assert len(rows_of(output)) == 6
    assert list((output / "cache" / "masks").rglob("*.safetensors"))


def test_pictures_without_a_subject_are_all_named_before_the_transformer_is_read(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    folder, nothing = photographs(tmp_path / "photos"), segformer(tmp_path / "nothing", answer=0)
    config = run_settings(tiny_pipeline, folder, nothing)
    for _ in range(2):  # found in the cache it is the same
        with pytest.raises(DataProblems) as caught:
            train(config, tmp_path / f"run-{_}", data=check(config))
        lines = sorted(caught.value.lines)
        assert lines and all(
            "found no subject in it: give it a mask, name the subject's labels" in line for line in lines
        )
        assert len(lines) + sum(f"toy-{place}.png" not in str(caught.value) for place in range(2, 6)) == 4
        assert not any("toy-0.png" in line or "toy-1.png" in line for line in lines)


def test_a_model_that_cannot_be_used_is_told_with_the_other_problems(
    tmp_path: Path, everything: Path
) -> None:
    folder = photographs(tmp_path / "photos")
    base = TrainConfig.explore(data=DataConfig(source=str(folder), held_out_references=1))

    def problems(**settings: object) -> str:
        data = replace(base.data, segmenter=SegmenterConfig(**settings))
        with pytest.raises(ValueError, match="found before loading anything") as caught:
            check(replace(base, data=data))
        return str(caught.value)

    assert "data.segmenter.model: ./gone: no such folder" in problems(model="./gone")
    told = problems(model=str(everything), labels="fox")
    assert "labels: 'fox' is none of its classes; it knows background, cat, dog" in told
    assert "grpo.groups_per_update: 16 different" in told  # beside it
    pocket = replace(base, data=DataConfig(segmenter=SegmenterConfig(model=str(everything))))
    with pytest.raises(ValueError, match="says nothing about the pocket world, whose masks are exact"):
        check(pocket)
