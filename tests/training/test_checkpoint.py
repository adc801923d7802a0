"""Checkpoints: complete or absent, exact, and only for the run they belong to."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from divrl_core.training import checkpoint
from divrl_core.training.checkpoint import (
    Best,
    TrainState,
    check_same_settings,
    latest_checkpoint,
    load_checkpoint,
    load_optimizer_tensors,
    optimizer_tensors,
    save_checkpoint,
)
from divrl_core.training.files import write_atomic_folder, write_atomic_json
from divrl_core.training.metrics_log import MetricsLog


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def state(update: int = 3, is_published: bool = True) -> TrainState:
    return TrainState(
        update=update,
        is_published=is_published,
        parameters={"a.lora_A.weight": randn(2, 3, seed=1)},
        average={"a.lora_A.weight": randn(2, 3, seed=2)},
        optimizer={"a.lora_A.weight/exp_avg": randn(2, 3, seed=3), "a.lora_A.weight/step": torch.tensor(3.0)},
        kl_reference={},
        best=Best(update=2, score=0.1 + 0.2),
        settings={"run": {"updates": 5, "seed": 0}, "optim": {"betas": (0.9, 0.999), "eps": 1e-15}},
        threads=2,
    )


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    saved = state()
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved))
    for field in fields(TrainState):
        before, after = getattr(saved, field.name), getattr(loaded, field.name)
        if field.name in ("parameters", "average", "optimizer"):
            assert before.keys() == after.keys()
            assert all(torch.equal(before[name], after[name]) for name in before)
        elif field.name == "settings":
            assert after["optim"] == {"betas": [0.9, 0.999], "eps": 1e-15}
        else:
            assert before == after


def test_the_old_policy_comes_back_and_a_checkpoint_from_before_there_was_one_is_read(tmp_path: Path) -> None:
    old = {"a.lora_A.weight": randn(2, 3, seed=4)}
    path = save_checkpoint(tmp_path, replace(state(), old=old, old_steps=7))
    loaded = load_checkpoint(path)
    assert loaded.old_steps == 7 and torch.equal(loaded.old["a.lora_A.weight"], old["a.lora_A.weight"])

    record = json.loads((path / "state.json").read_text())
    del record["old_steps"]
    (path / "state.json").write_text(json.dumps(record))
    (path / "old.safetensors").unlink()
    assert (load_checkpoint(path).old, load_checkpoint(path).old_steps) == ({}, 0)


def test_the_older_checkpoint_goes_only_when_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, state(3))

    def power_cut(*_: object) -> None:
        raise OSError("no power")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic_json", power_cut)  # the last file of the folder
        with pytest.raises(OSError, match="no power"):
            save_checkpoint(tmp_path, state(4))
    assert load_checkpoint(latest_checkpoint(tmp_path)).update == 3  # type: ignore[arg-type]

    save_checkpoint(tmp_path, state(4))
    assert [path.name for path in tmp_path.iterdir()] == ["update-000004"]


def test_a_published_state_is_later_than_the_same_update_before_it(tmp_path: Path) -> None:
    for published in (False, True):
        path = tmp_path / f"update-000007{'' if published else checkpoint.UNPUBLISHED}"
        write_atomic_folder(path, lambda folder: write_atomic_json(folder / "state.json", {}))
    assert latest_checkpoint(tmp_path).name == "update-000007"  # type: ignore[union-attr]


def test_nothing_in_a_checkpoint_is_a_pickle(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state())
    assert {file.suffix for file in path.iterdir()} == {".safetensors", ".json"}


def test_settings_edited_inside_a_checkpoint_are_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state()) / "state.json"
    record = json.loads(path.read_text())
    record["settings"]["run"]["seed"] = 1
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="edited by hand"):
        load_checkpoint(path.parent)


def test_only_the_number_of_updates_may_change() -> None:
    saved = state().settings
    check_same_settings(saved, {**saved, "run": {"updates": 9, "seed": 0}}, done_updates=5)
    with pytest.raises(ValueError, match=r"run\.seed \(0 -> 1\)"):
        check_same_settings(saved, {**saved, "run": {"updates": 9, "seed": 1}}, done_updates=5)


def test_an_optimizer_continues_from_its_saved_tensors_as_if_it_had_not_stopped() -> None:
    def steps(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, seeds: range) -> None:
        for seed in seeds:
            weight.grad = randn(4, seed=seed)
            optimizer.step()

    straight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([straight], lr=0.1)
    steps(optimizer, straight, range(3))
    saved, weight = optimizer_tensors(optimizer, {"w": straight}), straight.detach().clone()
    steps(optimizer, straight, range(3, 6))

    resumed = torch.nn.Parameter(weight)
    optimizer = torch.optim.AdamW([resumed], lr=0.1)
    load_optimizer_tensors(optimizer, {"w": resumed}, saved)
    steps(optimizer, resumed, range(3, 6))
    assert torch.equal(straight, resumed)


def test_saved_optimizer_tensors_do_not_move_with_the_optimizer() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones(4)
    optimizer.step()
    saved = optimizer_tensors(optimizer, {"w": weight})
    before = {name: value.clone() for name, value in saved.items()}
    optimizer.step()
    assert all(torch.equal(saved[name], before[name]) for name in saved)


def test_the_log_is_cut_back_to_what_the_checkpoint_knows(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for update in (1, 2, 3):
        log.append({"kind": "train", "update": update})
        log.append({"kind": "heldout", "update": update, "nssm": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"kind": "tra')  # killed in the middle of a line

    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.cut_back(update=2, is_published=False)
    kept = [(row["kind"], row["update"]) for row in MetricsLog(tmp_path / "metrics.jsonl").rows]
    assert kept == [("train", 1), ("heldout", 1), ("train", 2)]


def test_a_state_saved_twice_is_written_once(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, state())
    written = (path / "state.json").stat().st_mtime_ns
    save_checkpoint(tmp_path, replace(state(), threads=2))
    assert (path / "state.json").stat().st_mtime_ns == written


def test_files_that_are_no_checkpoint_are_neither_read_nor_touched(tmp_path: Path) -> None:
    strays = ["notes.txt", "update-000009.tmp", "update-backup", "update-000008"]
    for name in strays:
        (tmp_path / name).write_text("mine")
    save_checkpoint(tmp_path, state(3))
    save_checkpoint(tmp_path, state(4))
    assert {path.name for path in tmp_path.iterdir()} == {*strays, "update-000004"}
    assert latest_checkpoint(tmp_path) == tmp_path / "update-000004"
