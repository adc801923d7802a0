"""The score sheet: pictures where they belong, the gate where it is, undefined scores said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from divrl_core.evaluation.score_sheet import (
    FAILS,
    PASSES,
    ScoredPicture,
    _beside_gate,
    score_sheet,
    verdict,
)
from divrl_core.evaluation.sheets import LIGHT

NAN = float("nan")


def scored(vsm: float, **more: object) -> ScoredPicture:
    """A grey picture with this VSM."""
    return ScoredPicture(picture=torch.full((3, 8, 8), 0.5), label="a picture", nssm=0.4, vsm=vsm, **more)  # type: ignore[arg-type]


def count(sheet: Image.Image, colour: str) -> int:
    """Pixels of exactly this colour."""
    return int((np.asarray(sheet) == ImageColor.getrgb(colour)).all(axis=-1).sum())


def drawn(*pictures: ScoredPicture, gate: float = 0.5) -> Image.Image:
    return score_sheet(torch.zeros(3, 8, 8), pictures, gate=gate, title="A title")


def test_bars_are_as_long_as_vsm_and_coloured_by_the_gate() -> None:
    high, low = drawn(scored(0.8)), drawn(scored(0.2))
    assert count(high, FAILS) == 0
    assert count(low, PASSES) == 0
    assert count(high, PASSES) > count(low, FAILS) > 0
    assert count(drawn(scored(0.8), scored(0.9)), PASSES) > count(high, PASSES)


def test_an_undefined_score_has_no_bar_and_is_said_to_be() -> None:
    sheet = drawn(scored(NAN))
    assert count(sheet, PASSES) == count(sheet, FAILS) == 0
    assert verdict(0.1, NAN, 0.5) == "undefined"


def test_a_picture_exactly_at_the_gate_passes() -> None:
    assert verdict(0.1, 0.5, 0.5) == "passes"
    assert verdict(0.1, 0.49, 0.5) == "below the gate"
    assert verdict(NAN, 0.9, 0.5) == "undefined"


def test_a_score_is_never_rounded_onto_the_gate() -> None:
    assert _beside_gate(0.8, 0.8) == ".80"
    assert _beside_gate(0.796, 0.8) == ".796"
    assert _beside_gate(0.79996, 0.8) == ".799960000"
    assert _beside_gate(0.75, 0.8) == ".75"


def test_a_picture_that_was_stopped_is_neither_passed_nor_failed() -> None:
    sheet = drawn(scored(0.9, is_foreseen=True, note="stopped after step 4"))
    assert count(sheet, PASSES) == count(sheet, FAILS) == 0


def test_the_kept_are_framed() -> None:
    assert count(drawn(scored(0.9, is_kept=True)), LIGHT.ink) > count(drawn(scored(0.9)), LIGHT.ink) + 2000


def test_the_tick_stands_where_the_gate_is() -> None:
    left, right = (np.asarray(drawn(scored(NAN), gate=gate)) for gate in (0.1, 0.9))
    moved = np.nonzero((left != right).any(axis=(0, 2)))[0]  # columns in which one tick went and another came
    # the gate's number in no line of text moves: only the two ticks differ
    assert moved.max() - moved.min() == pytest.approx(0.8 * 208, abs=4)


def test_rows_are_filled_with_five_and_any_size_of_picture_fits() -> None:
    wide = ScoredPicture(picture=torch.rand(3, 8, 40), label="wide", nssm=NAN, vsm=0.1)
    few, many = drawn(*[wide] * 4), drawn(*[wide] * 5)
    assert many.height > few.height
    assert many.width == few.width


def test_no_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one picture"):
        drawn()
