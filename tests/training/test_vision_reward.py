"""A run that is paid by DINOv2's patches, from a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from divrl_core.config import BackboneConfig
from divrl_core.training.grpo_loop import train
from divrl_core.training.reward_server import check_served
from tests.models.small_vision import save_model

from .tiny_run import rows_of, tiny_config, toy_data


def test_explore_is_paid_by_the_backbone_that_a_folder_holds(tiny_pipeline: Path, tmp_path: Path) -> None:
    folder = save_model("dinov2", tmp_path / "dinov2")
    backbone = BackboneConfig(name="dinov2", path=str(folder), tau_s=-0.5)  # random weights match anything
    config = tiny_config(
        tiny_pipeline, kind="nssm", reward={"backbone": backbone}, run={"updates": 2, "eval_every_updates": 2}
    )
    train(config, tmp_path / "run", data=toy_data())
    rows = rows_of(tmp_path / "run")
    assert len(rows) == 2
    assert all(row["invalid"] == 0 and 0 < row["nssm"] == row["reward"] < 2 for row in rows)
    assert all(0 <= row["vsm"] <= 1 for row in rows)
    assert [row["update"] for row in rows_of(tmp_path / "run", "heldout")] == [0, 2]
    told = [path.read_text() for path in (tmp_path / "run" / "heldout").rglob("*.json")]
    assert any("Dinov2Model (dinov2), 32 wide, patches of 8 px, 56 px" in text for text in told)
    kept = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())
    assert kept["reward"]["backbone"]["path"] == str(folder)


def test_a_server_looks_at_its_backbones_folder_before_it_listens(tmp_path: Path) -> None:
    backbone = BackboneConfig(name="siglip", path=str(tmp_path / "nothing"))
    config = replace(tiny_config(tmp_path).reward, kind="nssm", backbone=backbone)
    with pytest.raises(ValueError, match="backbone siglip: no folder"):
        check_served(config)
