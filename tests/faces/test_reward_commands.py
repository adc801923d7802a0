"""Own and remote rewards as a user meets them: explore with the documented examples, and serve-reward."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from divrl_core.config import RemoteRewardConfig, RewardConfig, RunConfig, TrainConfig
from divrl_core.models.lora_export import export_lora
from divrl_core.settings import to_mapping
from divrl_core.training.remote_reward import RemoteReward
from tests.training.reward_servers import GREETING, ScriptedServer, honest_server, response
from train_cli.config_file import resolve, to_yaml
from train_cli.main import cli
from train_cli.serve_reward import served_reward
from train_cli.starting_lora import inherited_settings

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "rewards" / "own_reward.py"
MODULE = "own_reward"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the documented example in it, and a world of few references."""
    monkeypatch.setattr("divrl_core.training.data.POCKET_TRAIN_REFERENCES", 2)
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path / f"{MODULE}.py")
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop(MODULE, None)


def explore(pipeline: Path, output: Path, **changed: Any) -> Result:
    settings = {
        "model.path": pipeline,
        "model.image_size_px": 32,
        "model.gradient_checkpointing": False,
        "lora.rank": 2,
        "data.held_out_references": 2,
        "data.prompts_per_reference": 1,
        "rollout.steps": 2,
        "rollout.stochastic_steps": [0],
        "grpo.group_size": 3,
        "grpo.groups_per_update": 2,
        "grpo.micro_batch": 1,
        "run.updates": 1,
        "run.eval_images": 4,
        "run.eval_steps": 1,
        "run.sample_steps": 1,
        "run.sample_references": 1,
        "run.sample_seeds": [0],
        **{name.replace("__", "."): value for name, value in changed.items()},
    }
    words = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    return CliRunner().invoke(cli, ["explore", *words, "--output", str(output)], prog_name="divrl-train")


def rows_of(output: Path) -> dict[str, dict[str, Any]]:
    """The last row of each kind."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return {row["kind"]: row for row in rows}


def held_out(output: Path) -> list[dict[str, Any]]:
    samples = json.loads((output / "heldout" / "update-000001.json").read_text())["samples"]
    assert isinstance(samples, list)
    return samples


@pytest.mark.parametrize("name", ["colourful", "near_its_colours"])
def test_the_documented_pointwise_rewards_train_and_choose_the_best_lora(
    tiny_pipeline: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "run"
    own = {"reward__kind": "own", "reward__function": f"{MODULE}:{name}"}
    result = explore(tiny_pipeline, output, **own)
    assert result.exit_code == 0, result.output
    rows, samples = rows_of(output), held_out(output)
    train, evaluated = rows["train"], rows["heldout"]
    assert (train["invalid"], train["samples"]) == (0, 6)
    if name == "colourful":
        assert 0 < train["reward"] < 1
    else:
        assert train["reward"] < train["nssm"], "its colours are never quite the object's"
    assert train["nssm"] > 0, "the backbone's measures stand beside it"
    rewards = [sample["reward"] for sample in samples]
    assert len(rewards) == 4 and evaluated["selection"] == pytest.approx(sum(rewards) / 4)
    assert evaluated["selection"] != evaluated["nssm"]


def test_the_documented_groupwise_reward_is_given_whole_groups_in_training_and_held_out(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    """A picture alone has no reward by this function, and micro-batches are of one."""
    output = tmp_path / "run"
    own = {"reward__kind": "own", "reward__function": f"{MODULE}:unlike_the_others"}
    result = explore(tiny_pipeline, output, **own, reward__function_takes="group")
    assert result.exit_code == 0, result.output
    rows, samples = rows_of(output), held_out(output)
    assert rows["train"]["invalid"] == 0 and rows["train"]["reward"] > 0
    rewards = [sample["reward"] for sample in samples]
    assert all(reward > 0 for reward in rewards)
    for name in {sample["reference_id"] for sample in samples}:  # two pictures of each: as far as one another
        pair = [sample["reward"] for sample in samples if sample["reference_id"] == name]
        assert len(pair) == 2 and pair[0] == pytest.approx(pair[1])
    assert rows["heldout"]["selection"] == pytest.approx(sum(rewards) / 4)

    alone = explore(tiny_pipeline, tmp_path / "alone", **own)
    assert alone.exit_code == 2 and "only 0 of 6 samples have a defined reward" in alone.stderr


def test_a_group_with_one_held_out_picture_is_warned_of(tiny_pipeline: Path, tmp_path: Path) -> None:
    own = {"reward__kind": "own", "reward__function": f"{MODULE}:unlike_the_others"}
    result = explore(
        tiny_pipeline, tmp_path / "run", **own, reward__function_takes="group", run__eval_images=2
    )
    assert result.exit_code == 0, result.output
    assert (
        "no (reference, prompt) pair has two held-out pictures; for two of each set run.eval_images=4"
        in result.stderr
    )
    assert rows_of(tmp_path / "run")["heldout"]["selection"] is None


def test_a_remote_reward_trains_like_the_local_one_of_eight_bit_pictures(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    assert explore(tiny_pipeline, tmp_path / "local", reward__kind="nssm").exit_code == 0
    with honest_server(RewardConfig(kind="nssm")) as server:
        remote = {"reward__kind": "remote", "reward__remote__url": server.url}
        result = explore(tiny_pipeline, tmp_path / "remote", **remote)
        assert result.exit_code == 0, result.output
        assert f"reward server {server.url}: nssm (EfficientNet-Lite0" in result.stderr
    local, far = rows_of(tmp_path / "local"), rows_of(tmp_path / "remote")
    for part in ("reward", "nssm", "vsm", "gate_rate"):
        assert far["train"][part] == pytest.approx(local["train"][part], abs=0.02), part
    assert far["heldout"]["selection"] == pytest.approx(local["heldout"]["selection"], abs=0.02)
    assert far["heldout"]["nssm"] == pytest.approx(local["heldout"]["nssm"], abs=0.02)


def test_a_server_that_dies_stops_the_run_with_its_name_and_never_silently(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    scores = response({"total": [0.5]})
    with ScriptedServer(response(GREETING), response(GREETING), *[scores] * 5, response({}, 503)) as server:
        remote = {"reward__kind": "remote", "reward__remote__url": server.url, "reward__remote__retries": 0}
        result = explore(tiny_pipeline, tmp_path / "run", **remote)
    assert result.exit_code == 2
    failed = r"warning: the reward server \S+ failed .* have no reward; failed requests so far: (\d)"
    said = re.findall(failed, result.stderr)
    assert said == list("12345"), (
        "4 held-out pictures and one sample were scored, the other 5 samples were not"
    )
    assert result.stderr.strip().splitlines()[-1] == (
        "divrl-train: rewards: only 1 of 6 samples have a defined reward (nSSM is undefined for 6, VSM for 6), "
        f"grpo.min_valid_fraction asks for 0.5; the reward server {server.url} failed 5 requests since the start "
        "(the last: it answers 503)"
    )


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"reward__function": "nowhere_at_all:f"}, "there is no module nowhere_at_all"),
        ({"reward__function": f"{MODULE}:colorful"}, f"{MODULE} has no colorful; it has "),
        ({"reward__function": f"{MODULE}:F"}, "must be a function"),
        (
            {"reward__function": f"{MODULE}:colourful", "reward__device": "cuda:99"},
            "reward.device=cuda:99 cannot be",
        ),
    ],
)
def test_what_is_wrong_with_a_reward_is_told_before_anything_loads(
    tmp_path: Path, changed: dict[str, Any], line: str
) -> None:
    result = explore(
        tmp_path / "pocket", tmp_path / "run", **{"reward__kind": "own", "model__path": "pocket", **changed}
    )
    assert result.exit_code == 2
    assert "1 problem found before loading anything" in result.stderr and line in result.stderr
    assert not (tmp_path / "run").exists()


def settings_with_foreign_reward() -> list[TrainConfig]:
    own = RewardConfig(kind="own", function="evil.module:run", function_takes="group", penalty_weight=7.0)
    remote = RewardConfig(
        kind="remote",
        remote=RemoteRewardConfig(url="http://stranger.example:1/x", timeout_s=9.0),
        function_takes="group",
        penalty_weight=7.0,
    )
    return [TrainConfig.explore(reward=reward, run=RunConfig(seed=7)) for reward in (own, remote)]


@pytest.mark.parametrize("config", settings_with_foreign_reward(), ids=["own", "remote"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_no_code_and_no_address_comes_in_with_anothers_run_or_lora(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: TrainConfig, kind: str
) -> None:
    run = tmp_path / "theirs"
    (run / "lora").mkdir(parents=True)
    lora = run / "lora" / "best.safetensors"
    name = "transformer_blocks.0.attn.to_q"
    weights = {f"{name}.lora_A.weight": torch.zeros(2, 8), f"{name}.lora_B.weight": torch.zeros(8, 2)}
    export_lora(lora, weights, rank=2, alpha=2.0, settings=to_mapping(config))
    if kind == "folder":
        (run / "settings.yaml").write_text(to_yaml(config))
    source = run if kind == "folder" else lora
    inherited = inherited_settings(source, lora)
    inherited["run"]["init_lora"] = str(lora)
    resolved = resolve("suppress", inherited=inherited)
    assert resolved.reward == RewardConfig(kind="gated", penalty_weight=7.0) and resolved.run.seed == 7
    (line,) = capsys.readouterr().err.splitlines()
    value = "function=evil.module:run" if config.reward.function else "remote.url=http://stranger.example:1/x"
    assert line.startswith(f"--from: reward.{value} of {source} is not taken over: no code and no address")


def test_serve_reward_as_a_process_says_where_it_listens_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from train_cli.main import cli; cli()"]
    words = [
        "serve-reward",
        "--port",
        "0",
        "--set",
        "reward.kind=own",
        "--set",
        f"reward.function={MODULE}:colourful",
    ]
    with subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            first, second = process.stdout.readline(), process.stdout.readline()
            assert first.startswith(f"own (reward.function={MODULE}:colourful; beside it EfficientNet-Lite0")
            found = re.match(r"listening at (http://127\.0\.0\.1:\d+); Ctrl-C ends it$", second)
            assert found, second
            judge = RemoteReward.connect(RemoteRewardConfig(url=found[1]), takes_groups=False)
            assert judge.greeting.name == "own"
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()  # or leaving the block waits for it
    assert process.returncode == 0 and error.strip() == "ended", (out, error)


def test_serve_reward_reads_a_runs_settings_and_its_dry_run_only_prints(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    config = TrainConfig.suppress(init_lora="a", reward=RewardConfig(kind="gated", gate=0.4))
    file.write_text(to_yaml(config), encoding="utf-8")
    words = ["serve-reward", "--config", str(file), "--set", "reward.penalty_weight=2", "--dry-run"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(result.output)["reward"]["penalty_weight"] == 2
    assert "# would listen at 127.0.0.1:8700, on " in result.output
    (tmp_path / "stage.yaml").write_text("stage: suppress\n")
    assert served_reward(tmp_path / "stage.yaml", []).kind == "gated"
    assert served_reward(None, []).kind == "nssm"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set", "reward.kind=remote", "--set", "reward.remote.url=http://x:1"], "is itself a server's"),
        (["--set", "reward.kind=own", "--set", "reward.function=nowhere_at_all:f"], "there is no module"),
        (["--set", "reward.knd=vsm"], "the nearest is reward.kind"),
        (["--set", "grpo.group_size=3"], "unknown setting grpo"),
        (["--device", "cuda:99"], "--device=cuda:99 cannot be used here"),
        (["--port", "70000"], "70000 is not in the range 0<=x<=65535"),
        (["--host", "no.such.host.invalid", "--port", "0"], "cannot listen at no.such.host.invalid:0"),
        (["--config", "missing.yaml"], "there is no settings file missing.yaml"),
    ],
)
def test_mistakes_of_serve_reward_are_one_line(words: list[str], line: str) -> None:
    result = CliRunner().invoke(cli, ["serve-reward", *words], prog_name="divrl-train")
    assert result.exit_code == 2, result.output
    assert line in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_the_example_is_the_one_that_the_page_of_rewards_shows() -> None:
    page = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")
    source = EXAMPLE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks and all(block.strip() in source for block in blocks)
