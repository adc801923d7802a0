from __future__ import annotations

import json

import pytest

from divrl_core.evaluation.runs import find_parent, read_rows, read_run

from .synthetic_run import make_run


def test_a_run_folder_is_read_whole(tmp_path):
    run = read_run(make_run(tmp_path / "one", updates=20))
    assert run.stage == "explore" and run.last_update == 20 and run.planned_updates == 20
    assert [row["update"] for row in run.train] == list(range(1, 21))
    assert list(run.heldout_files) == [row["update"] for row in run.heldout] == [0, 10, 20]
    assert list(run.sheets) == [0, 20]
    assert run.loras == ("best.safetensors", "last.safetensors", "update-000020.safetensors")
    assert run.problems == ()


def test_a_last_line_cut_off_by_a_kill_is_tolerated(tmp_path):
    path = make_run(tmp_path / "one", updates=20) / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) - 40])
    rows, bad_lines = read_rows(path)
    assert bad_lines == 0 and len(rows) == whole.count("\n") - 1
    assert read_run(path.parent).problems == ()


def test_a_damaged_line_in_the_middle_is_left_out_and_reported(tmp_path):
    path = make_run(tmp_path / "one", updates=20) / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = lines[3][:30]
    path.write_text("\n".join(lines) + "\n")
    run = read_run(path.parent)
    assert run.problems == ("1 unreadable line(s) in one/metrics.jsonl were left out",)


def test_an_update_that_was_written_twice_counts_once_and_the_later_row_wins(tmp_path):
    path = make_run(tmp_path / "one", updates=20) / "metrics.jsonl"
    again = {"kind": "train", "stage": "explore", "update": 20, "reward": 7.0}
    path.write_text(path.read_text() + json.dumps(again) + "\n")
    run = read_run(path.parent)
    assert len(run.train) == 20 and run.train[-1]["reward"] == 7.0


def test_warnings_of_the_run_are_kept_once_each(tmp_path):
    path = make_run(tmp_path / "one", updates=20) / "metrics.jsonl"
    warning = json.dumps({"kind": "warning", "update": 4, "message": "rewards do not vary"}) + "\n"
    path.write_text(path.read_text() + warning + warning)
    assert read_run(path.parent).problems == ("rewards do not vary",)


def test_the_parent_is_found_by_run_folder_by_lora_file_and_by_relative_path(tmp_path, monkeypatch):
    parent = make_run(tmp_path / "runs" / "explore", updates=20)
    monkeypatch.chdir(tmp_path)
    for index, name in enumerate([str(parent), str(parent / "lora" / "best.safetensors"), "runs/explore"]):
        child = make_run(tmp_path / "runs" / f"s{index}", stage="suppress", updates=20, init_lora=name)
        assert find_parent(read_run(child)).resolve() == parent.resolve()
    monkeypatch.chdir("/")
    assert find_parent(read_run(child)).resolve() == parent.resolve(), "also from the folders above the run"


def test_a_parent_that_is_gone_is_none(tmp_path):
    child = make_run(tmp_path / "s", stage="suppress", updates=20, init_lora="nowhere/lora.safetensors")
    assert find_parent(read_run(child)) is None


def test_what_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(FileNotFoundError, match="run folder not found"):
        read_run(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty is not a run folder: it has no settings.yaml"):
        read_run(tmp_path / "empty")
    started = make_run(tmp_path / "started", updates=20)
    (started / "metrics.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"has no metrics yet.*wait for the first update"):
        read_run(started)
    (started / "settings.yaml").write_text("stage: [")
    with pytest.raises(ValueError, match=r"settings\.yaml is not readable YAML") as error:
        read_run(started)
    assert "\n" not in str(error.value)
