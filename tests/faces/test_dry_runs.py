"""--dry-run of the commands that do not train: inputs are checked, numbers told, nothing is loaded or written."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file

from tests.evaluation.synthetic_run import make_run
from train_cli.main import cli

PROMPT = "a toy fox on a blue floor"


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words, "--dry-run"], prog_name="divrl-train")


@pytest.fixture
def fox(tmp_path: Path) -> Path:
    path = tmp_path / "fox.png"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(autouse=True)
def no_weights(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """No part of a pipeline is loaded: each loading is told in the log."""
    with caplog.at_level(logging.INFO, logger="divrl"):
        yield
    assert not [record for record in caplog.records if record.getMessage().startswith("loading ")]


def files_in(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def told(tmp_path: Path, *words: str) -> str:
    before = files_in(tmp_path)
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert files_in(tmp_path) == before
    assert result.stdout.splitlines()[-1] == "dry run: nothing was loaded or written"
    return result.stdout


def test_sample_tells_forwards_and_memory(tmp_path: Path, fox: Path) -> None:
    words = ("sample", "--reference", str(fox), "--prompt", PROMPT, "--device", "cpu", "--steps", "5")
    said = told(tmp_path, *words, "--seeds", "0,1,2", "--output", str(tmp_path / "out"))
    assert "1 x 3 of 128 x 128 px, 5 steps each: 15 forwards" in said
    assert "while encoding" in said
    assert f"would write: the pictures and {tmp_path / 'out'}/sheet.jpg" in said


def test_sample_checks_what_it_would_read(tmp_path: Path, fox: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = ("sample", "--prompt", PROMPT, "--device", "cpu", "--reference")
    assert "broken.png" in call(*words, str(tmp_path / "broken.png")).stderr
    assert "no folder" in call(*words, str(fox), "--model", "nowhere").stderr
    lora = tmp_path / "other.safetensors"
    save_file({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(2, 3)}, lora)
    assert call(*words, str(fox), "--lora", str(lora)).exit_code == 2


def test_inspect_tells_points_and_blocks_and_refuses_strange_ones(tmp_path: Path, fox: Path) -> None:
    words = ("inspect", "attention", "--reference", str(fox), "--prompt", PROMPT, "--device", "cpu")
    said = told(tmp_path, *words, "--points", "64,40 80,100", "--steps", "7")
    assert "7 forwards; 2 points in double.0" in said
    assert "there is no block 'double.9'" in call(*words, "--blocks", "double.9").stderr
    assert "lies outside" in call(*words, "--points", "500,1").stderr


def test_score_tells_pictures_and_passes(tmp_path: Path, fox: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.open(fox).save(tmp_path / "images" / f"fox_{number}.png")
    said = told(tmp_path, "score", "--images", str(tmp_path / "images"), "--reference", str(fox))
    assert "pictures: 3" in said
    (tmp_path / "images" / "bad.png").write_bytes(b"x")
    assert "bad.png" in call("score", "--images", str(tmp_path / "images"), "--reference", str(fox)).stderr


def test_convert_reads_headers_alone_and_says_what_would_be_folded(tmp_path: Path) -> None:
    source = tmp_path / "peft"
    source.mkdir()
    prefix = "base_model.model.transformer_blocks.0.attn.to_q"
    tensors = {f"{prefix}.lora_A.weight": torch.ones(4, 128), f"{prefix}.lora_B.weight": torch.ones(128, 4)}
    save_file(tensors, source / "adapter_model.safetensors")
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    said = told(tmp_path, "convert", str(source), str(tmp_path / "new.safetensors"))
    assert "1 layers, rank 4, alpha 8 to be folded in" in said
    (source / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    assert "must be LORA" in call("convert", str(source), str(tmp_path / "new.safetensors")).stderr


def test_report_is_made_and_not_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    assert "a page of" in told(tmp_path, "report", str(tmp_path / "run"))
    (tmp_path / "empty").mkdir()
    assert call("report", str(tmp_path / "empty")).exit_code == 2


def test_demo_counts_updates_and_refuses_a_folder_in_use(tmp_path: Path) -> None:
    said = told(tmp_path, "demo", "--quick", "--output", str(tmp_path / "demo"))
    assert "begins the demo of seed 0" in said
    assert "suppress:" in said
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    assert "holds no demo" in call("demo", "--output", str(tmp_path / "used")).stderr


def test_an_experiment_names_the_cells_that_are_not_done(tmp_path: Path) -> None:
    for name in ("stages", "cfm", "rewards", "algorithms"):
        said = told(tmp_path, "experiment", name, "--seeds", "2", "--output", str(tmp_path / "experiment"))
        assert "for 2 seeds" in said
        assert "seed 1: base, " in said


def test_pocket_commands_count_their_steps(tmp_path: Path) -> None:
    said = told(tmp_path, "pocket", "build", "--output", str(tmp_path / "work"))
    assert "VAE: 3900 steps" in said
    assert "kontext:" in said
    assert "heads: 2000 steps" in told(tmp_path, "pocket", "heads", "--output", str(tmp_path / "heads"))
    assert "--vae keep needs --from" in call("pocket", "build", "--vae", "keep").stderr
