"""What a LoRA was rewarded for, as columns: what was paid, and what shows the same thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from divrl_core.evaluation.contest.rewarded import rewarded_columns
from divrl_core.models.lora_file import read_lora

from .stand_ins import random_lora

STRUCTURE = {"copy_excess", "copy_paste", "nssm", "nssm_cropped"}


def columns(folder: Path, pipeline: Path, *further: str, **header: Any) -> set[str]:
    lora = read_lora(random_lora(pipeline, folder / "x.safetensors", settings=header), with_weights=False)
    return set(rewarded_columns(lora, further))


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ({"kind": "nssm"}, STRUCTURE),  # the cropped one, which is the default
        ({"kind": "nssm", "structure": "nssm"}, STRUCTURE),
        ({"kind": "nssm", "structure": "matched"}, {"matched"}),
        (
            {"kind": "gated", "structure": "matched", "gates": ["vsm>=0.5", "extent>=0.4"]},
            {"matched", "vsm", "extent"},
        ),
        ({"kind": "vsm"}, {"vsm"}),
        ({"kind": "brightness"}, set()),
    ],
)
def test_measures_that_show_the_same_are_flagged_together(
    tiny_pipeline: Path, tmp_path: Path, reward: dict[str, Any], expected: set[str]
) -> None:
    assert columns(tmp_path, tiny_pipeline, reward=reward) == expected


def test_a_second_backbone_is_flagged_by_its_name(tiny_pipeline: Path, tmp_path: Path) -> None:
    reward = {
        "kind": "gated",
        "structure": "matched",
        "gates": ["second.vsm>=0.6"],
        "second_backbone": {"name": "dinov2"},
    }
    expected = {"matched", "vsm", "sdino"}
    assert columns(tmp_path, tiny_pipeline, reward=reward) == expected
    assert columns(tmp_path, tiny_pipeline, "dinov2", reward=reward) == {*expected, "dinov2_vsm"}


def test_a_reward_by_dino_reaches_the_columns_of_dino(tiny_pipeline: Path, tmp_path: Path) -> None:
    reward = {"kind": "gated", "structure": "nssm", "backbone": {"name": "dinov2"}}
    found = columns(tmp_path, tiny_pipeline, reward=reward)
    assert {"dino_nssm", "dino_nssm_own", "cosine", "dino", "dino_copy_excess"} <= found


def test_a_bonus_for_diversity_in_the_group_flags_structure_within_the_set(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    header = {"reward": {"kind": "vsm"}, "grpo": {"diversity_weight": 0.3}, "backbone": {"name": "lite0"}}
    assert columns(tmp_path, tiny_pipeline, "lite0", **header) == {
        "vsm",
        "lite0_vsm",
        "set_distance",
        "lite0_set_distance",
    }


def test_nothing_is_known_of_a_header_without_a_reward_or_of_another_version(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    assert columns(tmp_path, tiny_pipeline) == set()
    assert columns(tmp_path, tiny_pipeline, reward={"kind": "of tomorrow"}) == set()
    assert rewarded_columns(None) == ()
