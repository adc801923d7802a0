"""divrl-train plan, presets, and the dry run of the training commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from divrl_core.config import TrainConfig
from divrl_core.training.cards import card_of
from divrl_core.training.run_plan import plan_run
from train_cli.config_file import resolve
from train_cli.main import cli
from train_cli.plan import planned_settings
from train_cli.presets import NAMES, preset_card, preset_settings, without_start


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, list(words), prog_name="divrl-train", standalone_mode=True)


def refused(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("divrl-train")]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stage", ["explore", "suppress", "cfm"])
def test_every_preset_fits_its_card_with_head_room(name: str, stage: str) -> None:
    config = planned_settings(stage, name, None, ())
    card = card_of(preset_card(name))
    plan = plan_run(config, card=card)
    assert plan.fits, f"{plan.memory.peak / 2**30:.1f} GiB"
    assert plan.memory.peak * 1.1 + 2**30 <= card.memory_bytes + 1
    assert config.model.path.startswith("black-forest-labs/")
    assert config.model.gradient_checkpointing
    assert "data" not in preset_settings(name, stage)  # the user names pictures
    assert any("the toy world" in line for line in config.advice())


def test_a_preset_lies_below_the_file_and_single_settings(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("lora: {rank: 16}\ngrpo: {micro_batch: 2}\n")
    config = resolve("explore", config_file=file, overrides=["grpo.micro_batch=1"], preset="24gb")
    assert (config.model.quantization, config.lora.rank, config.grpo.micro_batch) == ("nf4", 16, 1)
    assert config.rollout == TrainConfig().rollout


def test_a_run_that_goes_on_keeps_its_model_and_adapter_under_a_preset() -> None:
    inherited = {
        "model": {"path": "my/model", "dtype": "float32"},
        "lora": {"rank": 8},
        "run": {"init_lora": "a.safetensors"},
    }
    config = resolve("suppress", inherited=inherited, preset="24gb")
    assert (config.model.path, config.lora.rank) == ("my/model", 8)
    assert (config.model.dtype, config.model.quantization) == ("bfloat16", "nf4")
    assert "lora" not in without_start(preset_settings("24gb", "suppress"))


def test_the_plan_is_a_table_that_a_terminal_can_show() -> None:
    result = call("plan", "explore", "--set", "lora.rank=4", "--card", "24GB")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 130
    assert any(line.startswith("memory of a process, GiB") for line in lines)
    for part in (
        "base",
        "LoRA",
        "gradients",
        "optimizer",
        "activations",
        "reward backbone",
        "VAE",
        "trajectories",
    ):
        assert any(line.strip().startswith(part) for line in lines), part
    assert any(line.startswith("24GB: fits") for line in lines)
    assert any("as an H200 reached" in line for line in lines)


def test_the_plan_as_json_adds_up() -> None:
    result = call("plan", "cfm", "--set", "lora.rank=4", "--rate", "2", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    parts = [part for part in plan["memory"]["parts"] if part["place"] == "device"]
    train = sum(part["bytes"].get("train", 0) for part in parts)
    assert train == plan["memory"]["device_by_phase"]["train"]
    assert plan["memory"]["peak"] == max(plan["memory"]["device_by_phase"].values())
    work = plan["work"]
    assert work["update"] == pytest.approx(sum(row["update"] for row in work["rows"]))
    assert work["update_seconds"] == pytest.approx(work["update"] / 2)
    assert plan["fits"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--card", "rtx-4080"), "did you mean rtx-4090"),
        (("--card", "0x24GB"), "at least 1"),
        (("--rate", "0"), "--rate must be above 0"),
        (("--rate", "-3"), "--rate must be above 0"),
        (("--rate", "nan"), "--rate must be above 0"),
        (("--preset", "32gb"), "--preset must be one of 24gb, 48gb, 80gb, 8x80gb"),
        (("--set", "model.path=nowhere"), "no folder 'nowhere'"),
        (("--set", "model.offload_blocks=99"), "this transformer has 6 blocks"),
        (("--set", "lora.targets=x\\.y"), "matches no linear layer"),
        (("--set", "model.image_size_px=72"), "multiple of 16"),
        (("--set", "model.transformer_file=missing.gguf"), "no file missing.gguf"),
        (("--sharded",), "--sharded needs several processes"),
        (("--processes", "4", "--card", "8x80GB"), "contradict each other"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], said: str) -> None:
    assert said in refused("plan", "explore", *words)


def test_processes_share_the_samples_and_the_sharded_base() -> None:
    result = call("plan", "explore", "--set", "lora.rank=4", "--processes", "3", "--sharded")
    assert "3 processes: each holds its share of the base (FSDP2)" in result.stdout
    assert "samples of an update for each" in result.stdout


def test_a_dry_run_prints_the_plan_as_comments_and_settings_that_config_takes(tmp_path: Path) -> None:
    for stage, more in (
        ("explore", ()),
        ("cfm", ("--set", "data.pocket_subjects=2", "--set", "data.held_out_pairs=1")),
    ):
        output = tmp_path / stage
        result = call(stage, "--output", str(output), "--set", "lora.rank=4", *more, "--dry-run")
        assert result.exit_code == 0, result.output
        assert not output.exists()
        assert any(line.startswith("# memory of a process, GiB") for line in result.stdout.splitlines())
        assert yaml.safe_load(result.stdout)["lora"]["rank"] == 4
        file = tmp_path / f"{stage}.yaml"
        file.write_text(result.stdout)
        again = call(stage, "--config", str(file), "--output", str(output), "--dry-run")
        assert again.exit_code == 0, again.output


def test_a_preset_with_resume_is_refused(tmp_path: Path) -> None:
    for stage in ("explore", "cfm"):
        said = refused(stage, "--resume", "--preset", "24gb", "--output", str(tmp_path))
        assert "leave out --preset" in said
