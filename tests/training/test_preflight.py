"""Before a run starts, everything that is wrong is said at once and no model is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from divrl_core.config import DataConfig, GrpoConfig, ModelConfig, RunConfig, TrainConfig
from divrl_core.training.model_files import COMPONENTS, WITH_WEIGHTS, pipeline_problems
from divrl_core.training.preflight import check


def photographs(folder: Path, count: int = 6) -> Path:
    folder.mkdir(parents=True)
    for place in range(count):
        values = np.random.default_rng(place).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"toy-{place}.png")
        (folder / f"toy-{place}.txt").write_text("a toy\n")
    return folder


def pipeline_folder(folder: Path) -> Path:
    """The files of a saved pipeline, in the right places, with next to nothing in them."""
    for name in COMPONENTS:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        if name in WITH_WEIGHTS:
            save_file({"weight": torch.zeros(3)}, folder / name / "model.safetensors")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxKontextPipeline"}))
    return folder


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig.explore(
        model=ModelConfig(path=str(pipeline_folder(tmp_path / "model")), image_size_px=32),
        data=DataConfig(source=str(photographs(tmp_path / "photos")), held_out_references=2),
        grpo=GrpoConfig(groups_per_update=4),
    )


def problems_of(config: TrainConfig) -> list[str]:
    with pytest.raises(ValueError, match="found before loading anything") as caught:
        check(config)
    return [line.removeprefix("  - ") for line in str(caught.value).split("\n")[1:]]


def test_a_sound_run_gives_its_opened_data(config: TrainConfig) -> None:
    data = check(config)
    assert len(data.train.pairs) == 5 and len(data.held_out.pairs) == 1
    assert data.train.mask_source == "whole picture"


def test_the_four_faults_of_a_folder_are_named_before_a_model_is_loaded(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos")
    picture = (folder / "toy-0.png").read_bytes()
    (folder / "toy-0.png").write_bytes(picture[: len(picture) // 2])
    Image.new("L", (30, 40), 255).save(folder / "wide.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "outside.png")
    rows = [
        {"file_name": "toy-0.png", "caption": "a toy"},
        {"file_name": "toy-1.png", "caption": "a toy", "mask": "wide.png"},
        {"file_name": "toy-2.png", "caption": ""},
        {"file_name": "../outside.png", "caption": "a toy"},
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    program = (
        "import sys\n"
        "from divrl_core.config import DataConfig, ModelConfig, TrainConfig\n"
        "from divrl_core.training.preflight import check\n"
        "try:\n"
        "    check(TrainConfig.explore(model=ModelConfig(path='a/b'), data=DataConfig(source=sys.argv[1])))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "assert not {'diffusers', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True
    )
    heading, *lines = done.stdout.strip().split("\n")
    assert heading == "4 problems found before loading anything:" and len(lines) == 4
    for name, text in (
        ("toy-0.png: ", "truncated"),
        ("wide.png: ", "as large as its picture, 40 x 40 px, got 30 x 40 px"),
        ("metadata.jsonl:3: ", "the caption is empty"),
        ("metadata.jsonl:4: ", "'../outside.png' points outside the folder"),
    ):
        assert any(name in line and text in line for line in lines), (name, lines)


def test_problems_of_every_room_come_together(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "photos" / "toy-3.txt").unlink()
    wrong = replace(
        config,
        model=ModelConfig(path="./no/such/model"),
        run=RunConfig(tracker="tensorbord", init_lora=str(tmp_path / "gone.safetensors")),
    )
    found = problems_of(wrong)
    assert len(found) == 4
    assert found[0].startswith("model.path: no folder './no/such/model'")
    assert found[1].startswith("run.init_lora: ") and "gone.safetensors" in found[1]
    assert "run.tracker must be one of" in found[2] and "'tensorboard'" in found[2]
    assert "toy-3.png: no caption" in found[3]


def test_more_groups_than_pairs_are_refused_with_the_largest_possible_number(config: TrainConfig) -> None:
    (problem,) = problems_of(replace(config, grpo=GrpoConfig(groups_per_update=6)))
    assert problem.startswith("grpo.groups_per_update: 6 different") and "set it to at most 5" in problem


def test_an_object_that_vanishes_at_the_training_size_is_found_beforehand(
    config: TrainConfig, tmp_path: Path
) -> None:
    mask = np.zeros((40, 40), dtype=np.uint8)
    mask[2, 2] = 255
    Image.fromarray(mask).save(tmp_path / "photos" / "toy-2.mask.png")
    assert check(replace(config, model=ModelConfig(path="owner/name"))).train.pairs  # its size is not known
    model = replace(config.model, image_size_px=16)
    (problem,) = problems_of(replace(config, model=model))
    assert "toy-2.mask.png: the object vanishes at 16 px" in problem


def test_a_tracker_that_is_not_installed_is_found_beforehand(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("divrl_core.training.preflight.find_spec", lambda name: None)
    (problem,) = problems_of(replace(config, run=RunConfig(tracker="wandb")))
    assert problem.startswith("run.tracker=wandb needs its package: pip install wandb")


def test_a_whole_pipeline_has_no_problems(tmp_path: Path) -> None:
    assert pipeline_problems(pipeline_folder(tmp_path / "model")) == []


def test_every_missing_and_truncated_part_of_a_pipeline_is_named(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path / "model")
    weights = folder / "vae" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    (folder / "text_encoder" / "model.safetensors").write_text("<html>404</html>")
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    (folder / "tokenizer" / "config.json").unlink()
    (folder / "tokenizer").rmdir()
    index = {"weight_map": {"weight": "model.safetensors", "bias": "model-2.safetensors"}}
    (folder / "transformer" / "model.safetensors.index.json").write_text(json.dumps(index))
    found = [line.replace(f"{folder}/", "") for line in pipeline_problems(folder)]
    assert found[0] == "transformer/model-2.safetensors: this weight file is missing; get the model again"
    assert found[1].startswith("vae/model.safetensors: needs ") and found[1].endswith("; get it again")
    assert found[2].startswith("text_encoder/model.safetensors: not a safetensors file")
    assert found[3].startswith("text_encoder_2: no weights")
    assert found[4].startswith("tokenizer: this part of the pipeline is missing")
    assert len(found) == 5


def test_another_pipeline_and_a_plain_folder_are_refused(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path / "model")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "FluxFillPipeline"}))
    (problem,) = pipeline_problems(folder)
    assert problem.endswith(
        "model_index.json: needs a FluxKontextPipeline or FluxPipeline, got FluxFillPipeline"
    )
    (folder / "model_index.json").unlink()
    assert "in diffusers' layout" in pipeline_problems(folder)[0]
