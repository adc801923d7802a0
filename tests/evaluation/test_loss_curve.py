"""The picture of a cfm run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from divrl_core.evaluation.loss_curve import smoothed, write_loss_curve
from divrl_core.evaluation.report import write_report


def heldout(update: int, loss: float) -> dict[str, float | str | None]:
    return {"kind": "heldout", "update": update, "validation_loss": loss, "validation_loss_se": None}


def test_a_running_mean_by_hand() -> None:
    assert smoothed([1.0, 2.0, 6.0]) == [1.0, 1.5, 3.0]
    assert smoothed([0.0] * 20 + [20.0])[-1] == 1.0, "twenty values: nineteen zeros and the last"


def test_the_picture_is_the_same_for_the_same_rows_and_moves_with_them(tmp_path: Path) -> None:
    rows = [heldout(0, 0.6), {"kind": "train", "update": 1, "loss": 0.5}, heldout(1, 0.55)]
    one = write_loss_curve(tmp_path / "a", rows).read_bytes()
    assert one == write_loss_curve(tmp_path / "b", rows).read_bytes()
    assert one != write_loss_curve(tmp_path / "c", [*rows, heldout(2, 0.5)]).read_bytes()
    with Image.open(tmp_path / "a" / "loss.png") as picture:
        assert picture.width > 1000


def test_before_the_first_update_there_is_a_picture_too(tmp_path: Path) -> None:
    assert write_loss_curve(tmp_path, [heldout(0, 0.6)]).is_file()


def test_a_report_of_a_cfm_run_says_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("stage: cfm\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(heldout(0, 0.6)) + "\n")
    with pytest.raises(ValueError, match=r"is a cfm run, which has no report: see its loss.png and samples/"):
        write_report([tmp_path], tmp_path / "report.html")
