"""divrl-train cfm as people use it: folders in, a LoRA out, pictures from it, explore on top."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from divrl_core.models.lora_file import read_lora
from train_cli.main import cli

ROOT = Path(__file__).resolve().parents[2]


def divrl_train(*words: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="divrl-train")


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(coarse, size[::-1], mode="bilinear")[0]
    Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy()).save(path)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs, one of them lying, with captions."""
    folder = tmp_path_factory.mktemp("pairs")
    for place, name in enumerate(("ant", "bee", "cat", "dog", "elk")):
        picture(folder / "target" / f"{name}.png", place, (64, 40) if name == "dog" else (40, 40))
        picture(folder / "reference" / f"{name}.jpg", 10 + place, (30, 60))
        (folder / "target" / f"{name}.txt").write_text(f"a toy {name} on a blue floor\n")
    return folder


SETTINGS = {
    "model.layout": "width",
    "model.image_size_px": 32,
    "model.gradient_checkpointing": False,
    "lora.rank": 2,
    "data.held_out_pairs": 1,
    "objective.batch_size": 2,
    "run.validate_every_updates": 2,
    "run.sample_every_updates": 2,
    "run.save_every_updates": 1,
    "run.sample_steps": 1,
    "run.sample_seeds": [0],
}


def cfm(pipeline: Path, pairs: Path, output: Path, *words: str, updates: int = 2) -> Result:
    settings = {"model.path": pipeline, "data.source": pairs, "run.updates": updates, **SETTINGS}
    given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return divrl_train("cfm", *given, "--output", output, *words)


@pytest.fixture(scope="module")
def run(tiny_pipeline: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "cfm"
    result = cfm(tiny_pipeline, pairs, output)
    assert result.exit_code == 0, result.output
    assert f"the best LoRA by validation loss: {output / 'lora' / 'best.safetensors'}" in result.output
    return output


def test_a_folder_of_pairs_becomes_a_lora_for_the_width_layout(run: Path) -> None:
    assert read_lora(run / "lora" / "best.safetensors").layout == "width"
    with Image.open(run / "samples" / "update-000002.jpg") as sheet:
        assert sheet.width > 200


def test_a_dry_run_says_what_will_be_trained_and_what_the_lora_takes(
    tiny_pipeline: Path, pairs: Path, tmp_path: Path
) -> None:
    result = cfm(tiny_pipeline, pairs, tmp_path / "run", "--dry-run", "--set", "lora.rank=512")
    assert result.exit_code == 0, result.output
    assert "train: 4 pairs; validate: 1 pairs" in result.output
    # One double block (12 layers) and one single block (5); the numbers by hand: 128-wide, feed-forward 512.
    attention, feed_forward = 8 * (128 + 128), 4 * (128 + 512)
    single = 3 * (128 + 128) + (128 + 512) + (128 + 512 + 128)
    parameters = 512 * (attention + feed_forward + single)
    assert f"LoRA of rank 512: {parameters / 1e6:,.1f} M parameters" in result.output
    assert "17 layers, rank 512, float32" in result.output
    assert "targets: attention+ffn" in result.output
    assert not (tmp_path / "run").exists()


def test_everything_wrong_with_the_pairs_is_told_at_once_before_anything_loads(
    tiny_pipeline: Path, pairs: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "pairs"
    for name in ("ant", "bee"):
        picture(broken / "target" / f"{name}.png", 1 if name == "ant" else 2)
        (broken / "target" / f"{name}.txt").write_text("" if name == "ant" else "a bee")
    picture(broken / "reference" / "ant.png", 3)
    picture(broken / "reference" / "be.png", 4)
    result = cfm(
        tiny_pipeline, broken, tmp_path / "run", "--set", "run.tracker=nothing", "--set", "optim.name=prodigy"
    )
    assert result.exit_code == 2
    for words in (
        "the caption is empty",
        "bee.png: there is no reference 'bee'",
        "; the nearest is 'be'",
        "run.tracker must be one of",
    ):
        assert words in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_resume_and_refuses_a_used_folder(
    tiny_pipeline: Path, pairs: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert cfm(tiny_pipeline, pairs, output, updates=1).exit_code == 0
    again = cfm(tiny_pipeline, pairs, output, updates=1)
    assert again.exit_code == 2 and "already holds a run; go on with it by --resume" in again.stderr
    longer = divrl_train("cfm", "--output", output, "--resume", "--set", "run.updates=2")
    assert longer.exit_code == 0, longer.output
    assert "2 updates done" in longer.output


def test_sampling_takes_the_loras_layout_and_says_so_when_another_is_asked_for(
    tiny_pipeline: Path, pairs: Path, run: Path, tmp_path: Path
) -> None:
    def sample(name: str, *words: str) -> Result:
        reference = pairs / "reference" / "ant.jpg"
        given = ("--reference", reference, "--prompt", "an ant", "--model", tiny_pipeline, "--lora", run)
        return divrl_train(
            "sample", *given, "--seeds", "0", "--steps", "1", "--output", tmp_path / name, *words
        )

    wide = sample("wide", "--size", "64x32")
    assert wide.exit_code == 0, wide.output
    assert "was trained with the reference in layout" not in wide.output
    with Image.open(tmp_path / "wide" / "strength-1_seed-0.png") as made:
        assert made.size == (64, 32)
    kontext = sample("kontext", "--layout", "kontext")
    assert kontext.exit_code == 0, kontext.output
    assert "was trained with the reference in layout width" in kontext.stderr


def test_explore_goes_on_from_a_cfm_run_in_its_layout(
    tiny_pipeline: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("divrl_core.training.data.POCKET_TRAIN_REFERENCES", 2)
    settings = {
        "data.held_out_references": 2,
        "reward.kind": "brightness",
        "rollout.steps": 2,
        "rollout.stochastic_steps": [0],
        "grpo.group_size": 2,
        "grpo.groups_per_update": 1,
        "grpo.micro_batch": 2,
        "grpo.min_valid_fraction": 0.0,
        "run.updates": 1,
        "run.eval_images": 2,
        "run.eval_steps": 1,
        "run.sample_steps": 1,
        "run.sample_references": 1,
        "run.sample_seeds": [0],
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    output = tmp_path / "explore"
    result = divrl_train("explore", "--from", run, *words, "--output", output)
    assert result.exit_code == 0, result.output
    assert read_lora(output / "lora" / "last.safetensors").layout == "width"
    text = (output / "settings.yaml").read_text()
    assert "layout: width" in text and "rank: 2" in text


def test_suppress_does_not_go_on_from_a_cfm_run(run: Path, tmp_path: Path) -> None:
    result = divrl_train("suppress", "--from", run, "--output", tmp_path / "suppress")
    assert result.exit_code == 2
    assert (
        f"is a cfm run, and suppress goes on from explore's; first: divrl-train explore --from {run}"
        in result.stderr
    )


def test_a_lora_that_does_not_fit_is_told_before_anything_loads(
    tiny_pipeline: Path, pairs: Path, run: Path, tmp_path: Path
) -> None:
    other_rank = cfm(tiny_pipeline, pairs, tmp_path / "a", "--init-lora", str(run), "--set", "lora.rank=3")
    assert (
        other_rank.exit_code == 2 and "has rank 2, the settings say 3: set lora.rank=2" in other_rank.stderr
    )
    other_layout = cfm(
        tiny_pipeline, pairs, tmp_path / "b", "--init-lora", str(run), "--set", "model.layout=diagonal"
    )
    assert "in layout width, here it lies in layout diagonal; set the layout to width" in other_layout.stderr


def test_every_setting_of_cfm_is_listed_with_its_meaning() -> None:
    listed = divrl_train("cfm", "--list-settings").output
    for name in (
        "objective.loss",
        "objective.time_density",
        "data.grid",
        "run.validation_times",
        "optim.name",
    ):
        assert name in listed
    assert "grpo." not in listed


def test_the_pairs_are_checked_before_any_model_library_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from divrl_core.config_cfm import CfmConfig, CfmDataConfig\n"
        "from divrl_core.training.cfm_preflight import check_cfm\n"
        "try:\n    check_cfm(CfmConfig(data=CfmDataConfig(source=sys.argv[1])))\n"
        "except ValueError as error:\n    print(error)\n"
        "assert not {'diffusers', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "no pairs here: needs metadata.jsonl" in done.stdout


def test_a_written_settings_file_does_not_undo_the_lora_of_the_command_line(
    tiny_pipeline: Path, pairs: Path, run: Path, tmp_path: Path
) -> None:
    """Every settings.yaml holds run.init_lora: null."""
    again = divrl_train("cfm", "--config", run / "settings.yaml", "--init-lora", run, "--dry-run")
    assert again.exit_code == 0, again.output
    assert f"init_lora: {run / 'lora' / 'best.safetensors'}" in again.output
    other = tmp_path / "other.yaml"
    other.write_text("run: {init_lora: elsewhere.safetensors}\n")
    both = divrl_train("cfm", "--config", other, "--init-lora", run)
    assert (
        both.exit_code == 2 and "run.init_lora is elsewhere.safetensors, the command line says" in both.stderr
    )


def test_a_second_stage_takes_over_model_and_adapter(pairs: Path, run: Path) -> None:
    result = divrl_train("cfm", "--init-lora", run, "--set", f"data.source={pairs}", "--dry-run")
    assert result.exit_code == 0, result.output
    for line in ("image_size_px: 32", "rank: 2", "layout: width"):
        assert line in result.output


def test_resume_and_a_start_exclude_each_other(run: Path) -> None:
    for command, option in (("cfm", "--init-lora"), ("explore", "--from")):
        result = divrl_train(command, "--resume", option, run, "--output", run)
        assert result.exit_code == 2 and f"leave out {option}" in result.stderr


def test_sampling_takes_the_model_the_lora_was_trained_on_and_says_when_another_is_asked_for(
    tiny_pipeline: Path, pairs: Path, run: Path, tmp_path: Path
) -> None:
    given = ("--reference", pairs / "reference" / "ant.jpg", "--prompt", "an ant", "--lora", run)
    few = ("--seeds", "0", "--steps", "1")
    result = divrl_train("sample", *given, *few, "--output", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "was trained on" not in result.stderr
    with Image.open(tmp_path / "a" / "strength-1_seed-0.png") as made:
        assert made.size == (32, 32), "the size of its training, not the model's own 64"
    moved = shutil.copytree(tiny_pipeline, tmp_path / "moved")
    other = divrl_train("sample", *given, *few, "--model", moved, "--output", tmp_path / "b")
    assert f"was trained on {tiny_pipeline}, the pictures are made with {moved}" in other.stderr


def test_a_run_is_not_resumed_on_other_pairs(tiny_pipeline: Path, pairs: Path, tmp_path: Path) -> None:
    mine, output = shutil.copytree(pairs, tmp_path / "pairs"), tmp_path / "run"
    assert cfm(tiny_pipeline, mine, output, updates=1).exit_code == 0
    (mine / "target" / "bee.txt").write_text("another caption")
    result = divrl_train("cfm", "--output", output, "--resume", "--set", "run.updates=2")
    assert result.exit_code == 2
    assert "the pairs or the model's files have changed since" in result.stderr


def test_the_listed_defaults_are_those_of_a_run() -> None:
    listed = " ".join(divrl_train("cfm", "--list-settings").output.split())
    assert "model.path [text; default: pocket-text-to-image]" in listed
    assert "model.guidance_scale [number; default: 1.0]" in listed
