"""What a mistake on the command line gets: one line that says what was wrong, and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from train_cli.main import cli

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = str(ROOT / "docs/pocket-base.jpg")
INSPECT = ("inspect", "attention", "--reference")


def told(*words: str) -> str:
    """The one line that a mistaken command line gets."""
    result = CliRunner().invoke(cli, list(words), prog_name="divrl-train")
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["explor"], "No such command 'explor'"),
        (["explore", "--sett", "a=1"], "No such option"),
        (["explore", "--set", "grpo.grop_size=3"], "the nearest is grpo.group_size"),
        (["explore", "--set", "grpo.group_size"], "must look like section.name=value"),
        (["explore", "--set", "grpo.group_size=[1"], "is no valid YAML value"),
        (["explore", "--set", "optim.lr=fast"], "optim.lr must be a number, got 'fast'"),
        (["explore", "--set", "stage=suppress"], "stage is 'suppress', the command is explore"),
        (["explore", "--config", "missing.yaml"], "there is no settings file missing.yaml"),
        (["explore", "--resume", "--output", "nowhere"], "nothing to resume in nowhere"),
        (["suppress"], "--from RUN_OR_LORA is needed"),
        (["suppress", "--from", "nowhere"], "there is no run folder or LoRA file nowhere"),
        (
            ["suppress", "--from", "nowhere", "--from-checkpoint", "first"],
            "'first' is not one of 'best', 'last'",
        ),
        (["sample", "--prompt", "a fox"], "Missing option '--reference'"),
        (["sample", "--reference", "no.png", "--prompt", "a fox"], "--reference: there is no file no.png"),
        (["sample", "--reference", "no.png", "--prompt", " "], "--prompt must not be empty"),
        (
            ["sample", "--reference", "a", "--prompt", "b", "--size", "130"],
            "multiples of 16 from 16 up, got '130'",
        ),
        (["sample", "--reference", "a", "--prompt", "b", "--seeds", "1,x"], "separated by commas, got '1,x'"),
        (["sample", "--reference", "a", "--prompt", "b", "--seeds", "1,1"], "names a number twice: '1,1'"),
        (["sample", "--reference", "a", "--prompt", "b", "--seeds", "-1"], "of at least 0, got '-1'"),
        (["sample", "--reference", "a", "--prompt", "b", "--strength", "nan"], "finite numbers, got 'nan'"),
        (["sample", "--reference", "a", "--prompt", "b", "--steps", "0"], "0 is not in the range x>=1"),
        (
            ["sample", "--reference", "a", "--prompt", "b", "--size", "5x"],
            "(512) or WIDTHxHEIGHT (768x512), got '5x'",
        ),
        (
            ["sample", "--reference", "a", "--prompt", "b", "--layout", "wide"],
            "'wide' is not one of 'kontext'",
        ),
        (["cfm", "--set", "objective.batch=3"], "the nearest is objective.batch_size"),
        (["cfm", "--set", "data.grid=2by2"], "data.grid must be ROWSxCOLUMNS"),
        (["cfm", "--set", "lora.targets=atention"], "did you mean attention?"),
        (["cfm", "--set", "grpo.group_size=4"], "unknown setting grpo"),
        (["cfm", "--init-lora", "nowhere"], "--init-lora: there is no run folder or LoRA file nowhere"),
        (["cfm", "--set", "model.dtype=float16"], "model.dtype=float16 cannot be trained"),
        (["cfm", "--set", "run.validation_times=[]"], "needs at least one time"),
        (["explore", "--from", "nowhere"], "there is no run folder or LoRA file nowhere"),
        (["score", "--images", "no", "--reference", "a.png"], "--images: there is no file or folder no"),
        (["inspect", "attention", "--prompt", "a fox"], "Missing option '--reference'"),
        ([*INSPECT, "no.png", "--prompt", "a fox"], "--reference: there is no file no.png"),
        ([*INSPECT, "a", "--prompt", " "], "--prompt must not be empty"),
        ([*INSPECT, "a", "--prompt", "b", "--layout", "none"], "--layout none leaves the reference out"),
        ([*INSPECT, "a", "--prompt", "b", "--time", "1.5"], "1.5 is not in the range 0<=x<=1"),
        ([*INSPECT, "a", "--prompt", "b", "--blocks", "7"], "names such as double.0,single.3, got '7'"),
        ([*INSPECT, "a", "--prompt", "b", "--blocks", "single.1,single.1"], "names a block twice"),
        ([*INSPECT, "a", "--prompt", "b", "--points", "64"], "(x,y in pixels), got '64'"),
        ([*INSPECT, "a", "--prompt", "b", "--points", "1,2 1,2"], "names a point twice: '1,2 1,2'"),
        (
            [*INSPECT, REFERENCE, "--prompt", "b", "--points", "1,2 128,0"],
            "point 128,0 lies outside the picture",
        ),
        (
            [*INSPECT, REFERENCE, "--prompt", "b", "--blocks", "single.9"],
            "there is no block 'single.9'; there are",
        ),
        (["report", "nowhere"], "there is no run folder nowhere"),
        (["convert", "nowhere", "lora.bin"], "must end in .safetensors"),
        (["pocket", "build", "--minutes", "0"], "0.0 is not in the range x>0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert line in told(*words)


def test_a_broken_settings_file_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("grpo:\n  group_size: 8\n  group_size: 4\n", encoding="utf-8")
    assert f"{file}, line 3: no valid YAML: group_size is given twice" in told(
        "explore", "--config", str(file)
    )
    file.write_text("grpo: [1, 2\n", encoding="utf-8")
    assert f"{file}, line 2: no valid YAML" in told("explore", "--config", str(file))
    file.write_text("- a\n", encoding="utf-8")
    assert "needs sections of names and values, got list" in told("explore", "--config", str(file))
    file.write_text("grpo: {group_size: 1}\n", encoding="utf-8")
    assert f"{file}: grpo.group_size must be at least 2, got 1" in told("explore", "--config", str(file))


def test_a_run_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("stage: explore\n", encoding="utf-8")
    assert "already holds a run; go on with it by --resume" in told("explore", "--output", str(tmp_path))


def test_a_run_is_not_resumed_as_the_other_stage(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("stage: suppress\n", encoding="utf-8")
    assert "stage is 'suppress'" in told("explore", "--output", str(tmp_path), "--resume")


def test_suppress_names_what_its_source_lacks(tmp_path: Path) -> None:
    assert "is no run with a lora/best.safetensors in it" in told("suppress", "--from", str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "is a raw PEFT folder; first: divrl-train convert" in told("suppress", "--from", str(tmp_path))


def test_an_unknown_experiment_is_told_the_known_ones() -> None:
    assert "'stages', 'cfm', 'rewards', 'algorithms'" in told("experiment", "colours")


def test_no_command_at_all_shows_the_help() -> None:
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert "divrl-train demo" in result.stderr


def test_a_traceback_is_shown_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIVRL_TRACEBACK", "1")
    result = CliRunner().invoke(cli, ["explore", "--set", "grpo.group_size=1"])
    assert isinstance(result.exception, ValueError)


def test_a_mistake_in_a_process_ends_it_with_two_and_one_line() -> None:
    code = "from train_cli.main import cli; cli(['explore', '--set', 'grpo.group_size=1'])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "divrl-train: settings: grpo.group_size must be at least 2, got 1\n"
    assert result.stdout == ""


def test_a_dry_run_tells_the_forwards_of_each_algorithm(tiny_pipeline: Path) -> None:
    def said(*settings: str) -> str:
        given = [
            f"model.path={tiny_pipeline}",
            "grpo.group_size=8",
            "grpo.micro_batch=4",
            "grpo.groups_per_update=2",
        ]
        words = [word for pair in (*given, *settings) for word in ("--set", pair)]
        result = CliRunner().invoke(cli, ["explore", "--dry-run", *words])
        assert result.exit_code == 0, result.stderr
        return result.stdout

    nft = said("algorithm=nft", "nft.times_per_sample=2")
    assert "# algorithm: nft" in nft and "# explore by nft of " in nft
    others = "; 8 more by the old policy; 8 more by the KL reference"
    assert f"#   training: 8 forwards and backwards (2 times a sample){others}" in nft
    slid = said("rollout.window_size=3", "grpo.kl_weight=0.1", "grpo.kl_steps=2")
    assert "# algorithm: grpo" in slid
    assert "#   noisy steps: 0-2, 1-3, 2-4 in turn, 25 updates each, and again" in slid
    # Windows 0-2, 1-3 and 2-4 hold 2, 1 and 0 steps below 2: one of three on average, four micro-batches.
    assert "#   training: 12 forwards and backwards (3 of the steps); 4 more by the KL reference" in slid


def test_a_dry_run_prints_settings_that_a_config_file_takes(tmp_path: Path, tiny_pipeline: Path) -> None:
    overrides = [
        f"model.path={tiny_pipeline}",
        "grpo.group_size=8",
        "grpo.micro_batch=4",
        "grpo.groups_per_update=2",
        "run.updates=10",
    ]
    words = ["explore", "--dry-run", *(word for pair in overrides for word in ("--set", pair))]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.stderr
    assert yaml.safe_load(result.stdout)["grpo"]["group_size"] == 8
    assert "# an update: 16 samples, 2 groups of 8" in result.stdout
    assert "#   rollout: 24 forwards of at most 4 samples; 6 steps" in result.stdout
    assert "#   training: 20 forwards and backwards (5 of the steps)" in result.stdout
    assert "(reference, prompt) pairs; masks:" in result.stdout
    assert "warning: run.eval_every_updates is 50, run.updates 10" in result.stderr

    file = tmp_path / "again.yaml"
    file.write_text(result.stdout, encoding="utf-8")
    again = CliRunner().invoke(cli, ["explore", "--dry-run", "--config", str(file)])
    assert again.stdout == result.stdout
