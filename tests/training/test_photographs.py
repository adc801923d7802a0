"""Explore on real photographs with the pocket model, through the command, to a LoRA that diffusers loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from diffusers import FluxKontextPipeline
from PIL import Image, ImageDraw

from divrl_core.models.model_names import POCKET_FOLDER
from train_cli.main import cli

data = pytest.importorskip("skimage.data")

SUBJECTS = {  # name: (caption lines, ellipse of the subject in shares of width and height)
    "astronaut": ("an astronaut on a blue floor\nan astronaut in a forest", (0.15, 0.05, 0.75, 0.98)),
    "cat": ("a cat on a pink floor\na cat on a sofa", (0.15, 0.05, 0.85, 0.95)),
    "coffee": ("a cup of coffee on a white floor\na cup of coffee by the sea", (0.20, 0.10, 0.80, 0.85)),
    "rocket": ("a rocket on a grey floor\na rocket on the moon", (0.40, 0.05, 0.62, 0.95)),
}
SETTINGS = (
    "data.held_out_references=1",
    "lora.rank=4",
    "rollout.steps=3",
    "rollout.stochastic_steps=[0,1]",
    "grpo.group_size=4",
    "grpo.groups_per_update=2",
    "grpo.micro_batch=4",
    "model.gradient_checkpointing=false",
    "run.updates=1",
    "run.eval_images=2",
    "run.eval_steps=2",
    "run.sample_steps=2",
    "run.sample_references=1",
    "run.sample_seeds=[0]",
)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Four photographs of scikit-image with captions and masks of ours."""
    folder = tmp_path / "photographs"
    (folder / "masks").mkdir(parents=True)
    for name, (captions, box) in SUBJECTS.items():
        picture = Image.fromarray(np.asarray(getattr(data, name)()))
        mask = Image.new("L", picture.size)
        width, height = picture.size
        ImageDraw.Draw(mask).ellipse(
            [box[0] * width, box[1] * height, box[2] * width, box[3] * height], fill=255
        )
        picture.save(folder / f"{name}.png")
        mask.save(folder / "masks" / f"{name}.png")
        (folder / f"{name}.txt").write_text(captions)
    return folder


def test_explore_on_photographs_ends_in_a_lora_that_diffusers_loads(photographs: Path, tmp_path: Path):
    output = tmp_path / "run"
    arguments = ["explore", "--output", str(output), "--set", f"data.source={photographs}"]
    for setting in SETTINGS:
        arguments += ["--set", setting]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    (trained,) = [row for row in rows if row["kind"] == "train"]
    assert trained["samples"] == 8 and trained["ratio_mean"] == 1.0 and trained["ratio_max_deviation"] == 0.0
    pipeline = FluxKontextPipeline.from_pretrained(POCKET_FOLDER, torch_dtype=torch.float32)
    pipeline.load_lora_weights(output / "lora" / "last.safetensors")
    assert pipeline.get_list_adapters()["transformer"]


def test_four_faults_in_a_folder_are_all_named_before_a_model_loads(photographs: Path, tmp_path: Path):
    whole = (photographs / "cat.png").read_bytes()
    (photographs / "cat.png").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (10, 10), 255).save(photographs / "masks" / "coffee.png")
    (photographs / "rocket.txt").write_text("\n")
    Image.new("RGB", (64, 64)).save(tmp_path / "outside.png")
    rows = [{"file_name": f"{name}.png", "caption": f"a {name}"} for name in ("astronaut", "cat")]
    rows += [{"file_name": "coffee.png", "mask": "masks/coffee.png", "caption": "coffee"}]
    rows += [
        {"file_name": "rocket.png", "caption": ""},
        {"file_name": "../outside.png", "caption": "a thief"},
    ]
    (photographs / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    result = CliRunner().invoke(
        cli, ["explore", "--output", str(tmp_path / "run"), "--set", f"data.source={photographs}"]
    )
    assert result.exit_code == 2
    for name in (
        "cat.png: truncated",
        "coffee.png: the mask",
        "metadata.jsonl:4: the caption is empty",
        "outside.png",
    ):
        assert name in result.output, result.output
    assert "Traceback" not in result.output and not (tmp_path / "run" / "metrics.jsonl").exists()
