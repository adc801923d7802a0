"""The pocket world behind the same door as pictures."""

from __future__ import annotations

import pytest

from divrl_core.config import DataConfig
from divrl_core.training.data import open_data, open_references


@pytest.fixture(autouse=True)
def few_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("divrl_core.training.data.POCKET_TRAIN_REFERENCES", 6)


def test_the_pocket_world_gives_both_sets_without_any_file() -> None:
    data = open_data(DataConfig(held_out_references=3))
    train, held_out = ({pair.reference_id for pair in side.pairs} for side in (data.train, data.held_out))
    assert len(train) == 6 and len(held_out) == 3 and not train & held_out
    reference = data.held_out.load(data.held_out.pairs[0].reference_id, 32)
    assert reference.image.shape == (3, 32, 32) and reference.mask.shape == (32, 32) and reference.mask.any()


def test_the_seed_changes_what_is_trained_on_and_never_what_is_held_out() -> None:
    config = DataConfig(held_out_references=3)
    one, other = open_data(config, seed=1), open_data(config, seed=2)
    assert one.train.pairs != other.train.pairs
    assert one.held_out.pairs == other.held_out.pairs
    assert open_references(config, held_out=True, seed=7).pairs == one.held_out.pairs


def test_the_first_prompts_are_kept_for_the_pocket_world_too() -> None:
    data = open_data(DataConfig(held_out_references=2, prompts_per_reference=1))
    assert [len(side.pairs) for side in (data.train, data.held_out)] == [6, 2]
