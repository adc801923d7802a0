"""The run folder: whenever a kill comes, either a new run or --resume can use what it left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from divrl_core.config import TrainConfig, to_mapping
from divrl_core.training import run_folder
from divrl_core.training.checkpoint import TrainState, save_checkpoint
from divrl_core.training.run_folder import RunFolder

CONFIG = TrainConfig.explore()


class Killed(BaseException):
    """In place of a kill: nothing catches it."""


def test_a_folder_left_by_a_kill_while_it_was_being_made_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, mkdir = tmp_path / "run", Path.mkdir

    def killed_at_the_first_folder(path: Path, *args: object, **options: object) -> None:
        if path.parent == output:
            raise Killed
        mkdir(path, *args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", killed_at_the_first_folder)
        with pytest.raises(Killed):
            RunFolder(output).open(CONFIG, resume=False)
    assert RunFolder(output).open(CONFIG, resume=True) is None
    assert {path.name for path in output.iterdir()} == {"settings.yaml", "lora", "samples", "heldout"}


def test_a_folder_left_by_a_kill_while_its_settings_were_being_written_can_be_started_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"

    def half_written(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True)
        path.with_name(path.name + ".tmp").write_text(text[: len(text) // 2])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "write_atomic_text", half_written)
        with pytest.raises(Killed):
            RunFolder(output).open(CONFIG, resume=False)
    assert [path.name for path in output.iterdir()] == ["settings.yaml.tmp"]
    RunFolder(output).open(CONFIG, resume=False)
    assert RunFolder(output).settings.is_file()


def test_a_run_begun_before_a_setting_existed_goes_on_with_its_default(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG, resume=False)
    settings = to_mapping(CONFIG)
    del settings["nft"], settings["algorithm"], settings["rollout"]["window_stride"]
    empty = {name: {} for name in ("parameters", "average", "optimizer", "kl_reference")}
    state = TrainState(update=3, is_published=True, best=None, settings=settings, threads=1, **empty)
    save_checkpoint(folder.checkpoints, state)
    resumed = folder.open(CONFIG, resume=True)
    assert resumed is not None and resumed.update == 3
    with pytest.raises(ValueError, match=r"these changed: algorithm \(grpo -> nft\)"):
        folder.open(replace(CONFIG, algorithm="nft"), resume=True)


def test_a_folder_with_anything_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        RunFolder(tmp_path).open(CONFIG, resume=False)


def test_what_a_kill_left_unfinished_is_gone_when_the_run_goes_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.open(CONFIG, resume=False)
    lora = folder.path / "lora"
    unfinished = [
        lora / "last.safetensors.tmp",
        lora / ".tmpB4tdsh",
        folder.path / "samples" / "update-000001.png.tmp",
    ]
    finished = [lora / "update-000002.safetensors", folder.path / "samples" / "update-000000.png"]
    for path in (*unfinished, *finished):
        path.write_bytes(b"")
    empty = {name: {} for name in ("parameters", "average", "optimizer", "kl_reference", "settings")}
    folder.open_log(TrainState(update=2, is_published=True, best=None, threads=1, **empty))
    assert [path.name for path in unfinished if path.exists()] == []
    assert all(path.exists() for path in finished)
