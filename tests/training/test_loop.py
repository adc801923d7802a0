"""The whole loop on a tiny real pipeline: it learns what it is paid for, stops safely and goes on exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from divrl_core.config import RewardConfig, TrainConfig
from divrl_core.models.features.base import load_backbone
from divrl_core.models.lora_file import read_lora
from divrl_core.training.checkpoint import latest_checkpoint, load_checkpoint
from divrl_core.training.grpo_loop import train
from divrl_core.training.references import Reference

from .tiny_run import brighter_pipeline, rows_of, tiny_config, toy_data


@pytest.fixture(scope="module")
def pipeline(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return brighter_pipeline(tiny_pipeline, tmp_path_factory.mktemp("bright") / "pipeline")


@pytest.fixture(scope="module")
def unbroken(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four updates that nothing stopped."""
    output = tmp_path_factory.mktemp("unbroken") / "run"
    train(tiny_config(pipeline), output, data=toy_data())
    return output


def brightness(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    return pictures.mean(dim=(1, 2, 3))


def darkness(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
    """Brightness with its sign turned: within a group its advantages are brightness's, times -1."""
    return -brightness(pictures, reference, prompt)


def brightness_gain(pipeline: Path, output: Path, sign: int) -> float:
    """Mean brightness of the last three of ten updates' samples, less that of the first three."""
    config = tiny_config(
        pipeline,
        optim={"lr": 3e-2},
        grpo={"group_size": 8, "micro_batch": 8},
        run={"updates": 10, "eval_every_updates": 10, "save_every_updates": 10},
    )
    train(config, output, data=toy_data(), reward=brightness if sign > 0 else darkness)
    means = [sign * row["reward"] for row in rows_of(output)]
    assert len(means) == 10
    return sum(means[-3:]) / 3 - sum(means[:3]) / 3


@pytest.mark.parametrize("sign", [1, -1])
def test_brightness_goes_within_ten_updates_where_the_reward_pays_for_it(
    pipeline: Path, tmp_path: Path, sign: int
) -> None:
    # Three updates are 48 samples of spread .006, so a mean of three is known to .001.
    assert sign * brightness_gain(pipeline, tmp_path / "run", sign) > 0.003


def test_a_run_leaves_the_files_that_were_promised(unbroken: Path) -> None:
    found = {path.relative_to(unbroken).as_posix() for path in unbroken.rglob("*") if path.is_file()}
    assert {
        "settings.yaml",
        "metrics.jsonl",
        "lora/best.safetensors",
        "lora/last.safetensors",
        "lora/update-000004.safetensors",
        "samples/update-000000.jpg",
        "heldout/update-000000.json",
        "heldout/update-000004.json",
        "checkpoint/update-000004/state.json",
    } <= found
    assert not [name for name in found if name.endswith(".tmp") or "pickle" in name or name.endswith(".pt")]
    assert [row["update"] for row in rows_of(unbroken)] == [1, 2, 3, 4]
    assert [row["update"] for row in rows_of(unbroken, "heldout")] == [0, 2, 4]
    assert all(row["ratio_max_deviation"] == 0 for row in rows_of(unbroken)), (
        "one step a rollout is on-policy"
    )
    assert all(row["kl"] is None for row in rows_of(unbroken)), "KL was not asked for, so it is not measured"
    for row in rows_of(unbroken):
        # 12 samples: 3 rollout steps, and a forward with its backward, which counts 3, at each of 2 trained steps.
        assert row["model_evaluations"] == 12 * (3 + 2 * 3)
        assert row["cpu_seconds"] > 0


def test_an_evaluation_says_what_its_pictures_were_measured_with(unbroken: Path) -> None:
    made = json.loads((unbroken / "heldout" / "update-000004.json").read_text())
    backbone = load_backbone(RewardConfig().backbone)
    assert made["settings"]["gate"] == backbone.settings.gate
    assert made["settings"]["consistency_cutoff"] == backbone.settings.consistency_cutoff
    assert made["settings"]["masks"] == "files"
    row = rows_of(unbroken, "heldout")[-1]
    assert made["summary"]["selection"] == row["selection"] == row["nssm"]
    assert row["selection_se"] == row["nssm_se"]


def test_the_exported_lora_holds_the_average_with_the_settings_in_its_header(unbroken: Path) -> None:
    lora = read_lora(unbroken / "lora" / "last.safetensors")
    state = load_checkpoint(latest_checkpoint(unbroken / "checkpoint"))  # type: ignore[arg-type]
    for name, value in state.average.items():
        scale = 2.0 if ".lora_B." in name else 1.0  # alpha is twice the rank, folded into B
        assert torch.equal(lora.tensors[name], value * scale)
    moved = [name for name in state.average if not torch.equal(state.average[name], state.parameters[name])]
    assert moved, "the average must lag behind the weights, or this says nothing"
    assert lora.settings["grpo"]["group_size"] == 6


def same_run(first: Path, second: Path) -> None:
    """Weights, averages, optimizer and every number of the log are equal; seconds and dates are not looked at."""
    states = [load_checkpoint(latest_checkpoint(path / "checkpoint")) for path in (first, second)]  # type: ignore[arg-type]
    for part in ("parameters", "average", "optimizer"):
        left, right = (getattr(state, part) for state in states)
        assert left.keys() == right.keys() and left
        assert all(torch.equal(left[name], right[name]) for name in left), part
    for kind in ("train", "heldout"):
        logs = [rows_of(path, kind) for path in (first, second)]
        for row in (row for log in logs for row in log):
            row.pop("seconds", None)
            row.pop("cpu_seconds", None)
        assert logs[0] == logs[1]
    files = [{path.name: path for path in (folder / "lora").iterdir()} for folder in (first, second)]
    assert files[0].keys() == files[1].keys()
    for name in files[0]:
        tensors = [load_file(group[name]) for group in files]
        assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0]), name


def signal_when(is_time: Callable[[], bool]) -> threading.Thread:
    """Send this process a Ctrl-C as soon as it is time."""

    def wait() -> None:
        for _ in range(6000):
            if is_time():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_run_stopped_by_ctrl_c_and_resumed_equals_the_unbroken_run(
    pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    config, output = tiny_config(pipeline), tmp_path / "run"
    before = signal.getsignal(signal.SIGINT)
    thread = signal_when(lambda: (output / "metrics.jsonl").exists() and len(rows_of(output)) >= 2)
    with pytest.raises(KeyboardInterrupt):
        train(config, output, data=toy_data())
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    assert len(rows_of(output)) in (2, 3), "it stopped on the way"

    train(config, output, resume=True, data=toy_data())
    same_run(unbroken, output)


KILLED_RUN = """
import sys
from pathlib import Path
from tests.training.tiny_run import tiny_config, toy_data
from divrl_core.training.grpo_loop import train
train(tiny_config(Path(sys.argv[1])), Path(sys.argv[2]), data=toy_data())
"""


def test_a_run_killed_without_warning_and_resumed_equals_the_unbroken_run(
    pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    output, root = tmp_path / "run", Path(__file__).parents[2]
    threads = str(torch.get_num_threads())
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": threads}
    command = [sys.executable, "-c", KILLED_RUN, str(pipeline), str(output)]
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            if (output / "metrics.jsonl").exists() and len(rows_of_living(output)) >= 3:
                break
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    done = load_checkpoint(latest_checkpoint(output / "checkpoint")).update  # type: ignore[arg-type]
    assert 2 <= done <= 4

    train(tiny_config(pipeline), output, resume=True, data=toy_data())
    same_run(unbroken, output)


def rows_of_living(output: Path) -> list[str]:
    """The lines that a running process has written so far, the last perhaps in part."""
    return [line for line in (output / "metrics.jsonl").read_text().splitlines() if '"train"' in line]


def test_a_longer_run_goes_on_from_a_finished_shorter_one(
    pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    train(tiny_config(pipeline, run={"updates": 2}), output, data=toy_data())
    result = train(tiny_config(pipeline), output, resume=True, data=toy_data())
    assert result.updates == 4
    same_run(unbroken, output)


def test_resuming_with_other_settings_names_each_changed_one(pipeline: Path, unbroken: Path) -> None:
    changed = tiny_config(pipeline, optim={"lr": 2e-3}, grpo={"clip_range": 2e-3})
    with pytest.raises(
        ValueError, match=r"grpo\.clip_range \(0\.001 -> 0\.002\), optim\.lr \(0\.001 -> 0\.002\)"
    ):
        train(changed, unbroken, resume=True, data=toy_data())


def test_resuming_with_fewer_updates_than_are_done_is_refused(pipeline: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.updates is 3, but 4 updates are done"):
        train(tiny_config(pipeline, run={"updates": 3}), unbroken, resume=True, data=toy_data())


def test_a_folder_in_use_names_both_choices(pipeline: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match=r"--resume, or name another --output"):
        train(tiny_config(pipeline), unbroken, data=toy_data())


def test_suppress_starts_from_the_lora_it_is_given(pipeline: Path, unbroken: Path, tmp_path: Path) -> None:
    lora = unbroken / "lora" / "last.safetensors"
    config = tiny_config(
        pipeline,
        stage="suppress",
        kind="brightness",
        grpo={"kl_weight": 0.1, "kl_reference": "init"},
        run={"updates": 1, "init_lora": str(lora)},
    )
    output = tmp_path / "suppress"
    train(config, output, data=toy_data())
    (row,) = rows_of(output)
    assert row["kl"] == 0, "before its first step the policy is the LoRA that KL holds on to"
    # The same pictures come from the explore run's last LoRA and from the start of suppress.
    explore, suppress = rows_of(unbroken, "heldout")[-1], rows_of(output, "heldout")[0]
    assert suppress["nssm"] == pytest.approx(explore["nssm"], abs=1e-5)
    state = load_checkpoint(latest_checkpoint(output / "checkpoint"))  # type: ignore[arg-type]
    start = {
        name: value / (2.0 if ".lora_B." in name else 1) for name, value in read_lora(lora).tensors.items()
    }
    assert all(torch.equal(state.kl_reference[name], start[name]) for name in start)


def test_too_few_defined_rewards_stop_the_run_with_their_number(pipeline: Path, tmp_path: Path) -> None:
    def often_undefined(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        total = brightness(pictures, reference, prompt)
        total[1:] = torch.nan
        return total

    with pytest.raises(ValueError, match=r"only 4 of 12 samples have a defined reward"):
        train(tiny_config(pipeline), tmp_path / "run", data=toy_data(), reward=often_undefined)


def test_a_few_undefined_rewards_are_counted_and_left_out(pipeline: Path, tmp_path: Path) -> None:
    def first_undefined(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        total = brightness(pictures, reference, prompt)
        total[0] = torch.nan
        return total

    output = tmp_path / "run"
    train(tiny_config(pipeline, run={"updates": 1}), output, data=toy_data(), reward=first_undefined)
    (row,) = rows_of(output)
    assert row["invalid"] == 4 and row["samples"] == 12  # one of each micro-batch of three
    assert row["reward"] > 0.4, "the mean is over defined rewards; counted as 0 they would pull it to .36"


def test_rewards_that_never_vary_are_warned_of_once(pipeline: Path, tmp_path: Path, caplog) -> None:  # type: ignore[no-untyped-def]
    def constant(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        return torch.full((len(pictures),), 0.5)

    output = tmp_path / "run"
    train(tiny_config(pipeline), output, data=toy_data(), reward=constant)
    said = [row["message"] for row in rows_of(output, "warning") if "do not vary" in row["message"]]
    assert len(said) == 1
    weights = load_checkpoint(latest_checkpoint(output / "checkpoint")).parameters  # type: ignore[arg-type]
    assert not any(weights[name].any() for name in weights if ".lora_B." in name), (
        "nothing was learnt from noise"
    )


def test_a_resumed_run_gives_the_warnings_that_its_log_lacks_and_repeats_none(
    pipeline: Path, tmp_path: Path
) -> None:
    def constant(pictures: Tensor, reference: Reference, prompt: str) -> Tensor:
        return torch.full((len(pictures),), 0.5)

    def warned_of(output: Path) -> int:
        return sum("do not vary" in row["message"] for row in rows_of(output, "warning"))

    output = tmp_path / "run"
    short = tiny_config(pipeline, run={"updates": 3})
    train(short, output, data=toy_data(), reward=constant)
    train(short, output, data=toy_data(), reward=constant, resume=True)
    assert warned_of(output) == 1

    log = output / "metrics.jsonl"
    log.write_text("".join(line for line in log.open() if '"warning"' not in line))
    train(short, output, data=toy_data(), reward=constant, resume=True)
    assert warned_of(output) == 1


def test_a_tracker_is_given_the_numbers_of_metrics_jsonl_and_changes_nothing(
    pipeline: Path, unbroken: Path, tmp_path: Path
) -> None:
    """Read back by TensorBoard itself."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    output = tmp_path / "run"
    train(tiny_config(pipeline, run={"tracker": "tensorboard"}), output, data=toy_data())
    (events,) = (output / "divrl").glob("events.out.tfevents.*")  # the settings lie in a folder below it
    board = EventAccumulator(str(events.parent)).Reload()
    for row in rows_of(output):
        (logged,) = [event for event in board.Scalars("train/reward") if event.step == row["update"]]
        assert logged.value == pytest.approx(row["reward"])
    assert len(board.Scalars("heldout/nssm")) == len(rows_of(output, "heldout"))
    assert [row["reward"] for row in rows_of(output)] == [row["reward"] for row in rows_of(unbroken)]


@pytest.mark.parametrize(
    "changes", [{"model": {"gradient_checkpointing": True}}, {"model": {"dtype": "bfloat16"}}]
)
def test_the_ratio_is_exactly_one_with_checkpointing_and_in_bfloat16(
    pipeline: Path, tmp_path: Path, changes: dict
) -> None:
    config: TrainConfig = tiny_config(pipeline, run={"updates": 2}, **changes)
    output = tmp_path / "run"
    train(config, output, data=toy_data())  # stops by itself if the first update's ratio is not 1
    assert [row["ratio_max_deviation"] for row in rows_of(output)] == [0, 0]
    assert all(row["grad_norm"] > 0 for row in rows_of(output))
