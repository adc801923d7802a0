"""Where the settings of a training command come from: stage, explore run, file, --set, a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from divrl_core.config import GrpoConfig, LoraConfig, ModelConfig, RunConfig, TrainConfig
from divrl_core.settings import to_mapping
from train_cli.config_file import parse_value, resolve, resolve_resumed, to_yaml
from train_cli.stage import plan_lines
from train_cli.starting_lora import find_lora, inherited_settings


@pytest.fixture
def explore_run(tmp_path: Path) -> Path:
    """The folder of an explore run with settings of its own; its LoRA files are empty."""
    config = TrainConfig.explore(
        model=ModelConfig(path="photographs-model", dtype="bfloat16"),
        lora=LoraConfig(rank=16),
        grpo=GrpoConfig(group_size=8, micro_batch=4),
        run=RunConfig(updates=40, seed=7),
    )
    run = tmp_path / "explore"
    (run / "lora").mkdir(parents=True)
    (run / "settings.yaml").write_text(to_yaml(config), encoding="utf-8")
    for name in ("best", "last"):
        (run / "lora" / f"{name}.safetensors").touch()
    return run


def test_suppress_takes_over_the_explore_runs_settings_but_its_own_stage(explore_run: Path) -> None:
    lora = find_lora(explore_run, "best")
    inherited = inherited_settings(explore_run, lora)
    inherited["run"]["init_lora"] = str(lora)
    config = resolve("suppress", inherited=inherited)
    assert (config.model.path, config.lora.rank, config.grpo.group_size) == ("photographs-model", 16, 8)
    assert (config.run.seed, config.run.updates) == (7, 40)
    assert (config.stage, config.reward.kind, config.grpo.kl_reference) == ("suppress", "gated", "init")
    assert config.run.init_lora == str(explore_run / "lora" / "best.safetensors")


def test_the_last_lora_is_taken_when_asked_for(explore_run: Path) -> None:
    assert find_lora(explore_run, "last") == explore_run / "lora" / "last.safetensors"


def test_a_file_goes_over_the_explore_run_and_set_goes_over_the_file(
    explore_run: Path, tmp_path: Path
) -> None:
    file = tmp_path / "suppress.yaml"
    file.write_text("grpo: {group_size: 12}\nrun: {updates: 30, seed: 1, init_lora: a}\n", encoding="utf-8")
    inherited = inherited_settings(explore_run, explore_run / "lora" / "best.safetensors")
    config = resolve("suppress", config_file=file, overrides=["run.updates=20"], inherited=inherited)
    assert (config.grpo.group_size, config.grpo.micro_batch) == (12, 4)
    assert (config.run.updates, config.run.seed, config.lora.rank) == (20, 1, 16)


def test_a_resumed_run_has_the_settings_it_was_started_with(explore_run: Path) -> None:
    config = resolve_resumed("explore", explore_run, ["run.updates=60"])
    assert (config.run.updates, config.run.seed, config.lora.rank) == (60, 7, 16)


def test_a_run_of_before_structure_was_a_setting_goes_on_with_what_it_paid(explore_run: Path) -> None:
    file = explore_run / "settings.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    del settings["reward"]["structure"], settings["reward"]["recipe"]
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert resolve_resumed("explore", explore_run, []).reward.paid_structure == "nssm"
    inherited = inherited_settings(explore_run, explore_run / "lora" / "best.safetensors")
    inherited["run"]["init_lora"] = "a.safetensors"
    assert resolve("suppress", inherited=inherited).reward.paid_structure == "nssm"


def test_written_settings_are_complete_and_read_back_the_same(tmp_path: Path) -> None:
    config = TrainConfig.explore(run=RunConfig(mixed_precision="no", tracker=None))
    assert yaml.safe_load(to_yaml(config)) == to_mapping(config)
    file = tmp_path / "settings.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert resolve("explore", config_file=file) == config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16", 16),
        ("true", True),
        ("null", None),
        ("", None),
        ("[0, 1]", [0, 1]),
        ("a b", "a b"),
        ("1.5", 1.5),
    ],
)
def test_the_text_after_set_is_read_as_yaml(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_the_plan_counts_forwards_by_hand() -> None:
    # 16 groups of 21 = 336 samples = 112 batches of 3; 6 steps each = 672 forwards; 5 trained of them = 560.
    # 3200 updates of 336 samples = 1075200; every 50 updates and once before = 65 evaluations.
    lines = "\n".join(plan_lines(TrainConfig.explore()))
    expected = (
        "336 samples, 16 groups of 21",
        "672 forwards of at most 3",
        "560 forwards and backwards",
        "1075200 samples",
        "65 evaluations of 64 pictures",
    )
    for words in expected:
        assert words in lines
    assert "KL reference" not in lines
    with_kl = TrainConfig.explore(grpo=GrpoConfig(kl_weight=0.1))
    assert "; 560 more by the KL reference" in "\n".join(plan_lines(with_kl))
