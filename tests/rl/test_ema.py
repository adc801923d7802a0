"""The running average of the weights."""

from __future__ import annotations

import pytest
import torch

from divrl_core.rl.ema import ema_start, ema_update, ema_update_


def test_average_worked_by_hand():
    shadow = ema_update({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}, decay=0.9)
    # .9 * 1 + .1 * 3 = 1.2
    assert shadow["w"].item() == pytest.approx(1.2)


def test_many_updates_equal_the_closed_form():
    shadow = ema_start({"w": torch.tensor([0.0], dtype=torch.float64)})
    for _ in range(20):
        shadow = ema_update(shadow, {"w": torch.tensor([1.0], dtype=torch.float64)}, decay=0.9)
    assert shadow["w"].item() == pytest.approx(1 - 0.9**20)


def test_neither_start_nor_update_shares_memory_with_the_weights():
    weights = {"w": torch.nn.Parameter(torch.ones(3))}
    start = ema_start(weights)
    copied, kept = ema_update(start, weights, decay=0.0), ema_update(start, weights, decay=1.0)
    with torch.no_grad():
        weights["w"].fill_(7.0)
    for average in (start, copied, kept):
        assert average["w"].tolist() == [1.0, 1.0, 1.0]
        assert not average["w"].requires_grad
        assert average["w"].device.type == "cpu"


def test_an_update_leaves_the_old_average_as_it_was():
    start = ema_start({"w": torch.zeros(2)})
    ema_update(start, {"w": torch.ones(2)}, decay=0.5)["w"].fill_(9.0)
    assert start["w"].tolist() == [0.0, 0.0]
    ema_update(start, {"w": torch.ones(2)}, decay=1.0)["w"].fill_(9.0)
    assert start["w"].tolist() == [0.0, 0.0]


def test_bfloat16_weights_are_averaged_in_float32():
    """In bfloat16 an average of 1 would never move towards 1.01 by steps of .001."""
    shadow = ema_start({"w": torch.tensor([1.0], dtype=torch.bfloat16)})
    assert shadow["w"].dtype == torch.float32
    weights = {"w": torch.tensor([1.0078125], dtype=torch.bfloat16)}
    for _ in range(50):
        shadow = ema_update(shadow, weights, decay=0.9)
    assert shadow["w"].item() == pytest.approx(1 + 0.0078125 * (1 - 0.9**50), abs=1e-6)


def test_what_does_not_fit_is_refused():
    shadow = {"a": torch.zeros(2), "b": torch.zeros(2)}
    with pytest.raises(ValueError, match="same names; 2 differ, 'b' first"):
        ema_update(shadow, {"a": torch.zeros(2), "c": torch.zeros(2)}, decay=0.9)
    with pytest.raises(ValueError, match=r"'b' must keep its shape: expected \(2,\), got \(3,\)"):
        ema_update(shadow, {"a": torch.zeros(2), "b": torch.zeros(3)}, decay=0.9)
    with pytest.raises(ValueError, match=r"decay must lie in \[0, 1\], got 1.5"):
        ema_update(shadow, shadow, decay=1.5)


def test_the_average_in_place_is_the_average() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [
        {"a": torch.randn(3, 4, generator=generator), "b": torch.randn(2, generator=generator)}
        for _ in range(4)
    ]
    kept, in_place = ema_start(weights[0]), {name: value.clone() for name, value in weights[0].items()}
    for now in weights[1:]:
        kept = ema_update(kept, now, 0.7)
        ema_update_(in_place, now, 0.7)
    assert all(torch.allclose(kept[name], in_place[name], atol=1e-6) for name in kept)
    with pytest.raises(ValueError, match="must have the same names"):
        ema_update_(in_place, {"a": weights[0]["a"]}, 0.7)
