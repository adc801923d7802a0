from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from divrl_core.evaluation.lettering import fit_text, font_for, text_width, wrap_text
from divrl_core.evaluation.sheets import (
    DARK,
    LIGHT,
    ComparisonRow,
    SheetRow,
    comparison_sheet,
    contact_sheet,
    score_caption,
    to_picture,
)

RED, GREEN, BLUE = (
    torch.tensor(colour).view(3, 1, 1).expand(3, 8, 8) for colour in np.eye(3, dtype="float32")
)


def count_of(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == colour).all(axis=-1).sum())


def test_every_picture_fills_its_cell_and_none_is_lost():
    row = SheetRow(label="a toy", reference=RED, results=[GREEN, BLUE, GREEN])
    sheet = contact_sheet([row, row], columns=["reference", "0", "1", "2"], title="t", cell_px=40)
    assert count_of(sheet, (255, 0, 0)) == 2 * 40 * 40
    assert count_of(sheet, (0, 255, 0)) == 4 * 40 * 40
    assert count_of(sheet, (0, 0, 255)) == 2 * 40 * 40


def test_rows_of_unequal_length_leave_cells_empty():
    full = SheetRow(label="a", reference=RED, results=[GREEN, GREEN])
    short = SheetRow(label="b", reference=RED, results=[GREEN])
    sheet = contact_sheet([full, short], columns=["reference", "0", "1"], title="t", cell_px=24)
    assert count_of(sheet, (0, 255, 0)) == 3 * 24 * 24


def test_a_picture_keeps_its_proportions_and_is_centred_in_its_cell():
    wide = Image.new("RGB", (64, 32), (1, 2, 3))
    row = SheetRow(label="a", reference=RED, results=[wide])
    sheet = contact_sheet([row], columns=["reference", "0"], title="t", cell_px=40)
    rows, columns = np.nonzero((np.asarray(sheet) == (1, 2, 3)).all(axis=-1))
    red_rows, _ = np.nonzero((np.asarray(sheet) == (255, 0, 0)).all(axis=-1))
    assert np.ptp(columns) + 1 == 40 and np.ptp(rows) + 1 == 20
    assert rows.min() - red_rows.min() == 10


def test_nearest_upscaling_invents_no_colours_and_lanczos_does():
    checks = torch.zeros(3, 2, 2)
    checks[:, 0, 0] = checks[:, 1, 1] = 1.0
    row = SheetRow(label="a", reference=checks, results=[checks])
    greys = {}
    for upscale in ("nearest", "lanczos"):
        sheet = contact_sheet([row], columns=["", ""], title="", cell_px=32, upscale=upscale)
        pixels = np.asarray(sheet)[-60:-20, 30:58].reshape(-1, 3)
        greys[upscale] = len(np.unique(pixels, axis=0))
    assert greys["nearest"] <= 3 < greys["lanczos"]


def test_a_comparison_puts_the_same_seed_into_the_same_column_of_every_model():
    row = ComparisonRow(
        label="a toy", reference=torch.ones(3, 8, 8), results={"base": [RED, BLUE], "explore": [RED, BLUE]}
    )
    sheet = np.asarray(comparison_sheet([row], seeds=["seed 0", "seed 1"], title="t", cell_px=40))
    for colour in ((255, 0, 0), (0, 0, 255)):
        rows, columns = np.nonzero((sheet == colour).all(axis=-1))
        assert np.ptp(columns) + 1 == 40, "one column"
        assert len(rows) == 2 * 40 * 40, "two rows"


def test_a_model_is_marked_with_its_colour_in_both_themes():
    row = ComparisonRow(label="a", reference=RED, results={"suppress": [GREEN]})
    for theme in (LIGHT, DARK):
        sheet = comparison_sheet([row], seeds=["0"], title="t", cell_px=40, theme=theme)
        hexed = theme.models["suppress"]
        colour = tuple(int(hexed[place : place + 2], 16) for place in (1, 3, 5))
        assert count_of(sheet, colour) > 50


def test_long_prompts_stay_inside_the_sheet():
    prompt = "a toy fox " * 60
    row = SheetRow(label=prompt, reference=RED, results=[GREEN], captions=["x" * 200])
    sheet = contact_sheet([row], columns=["reference " * 9, "seed"], title=prompt, cell_px=64)
    paper = np.asarray(sheet)[:, -20:]
    assert (paper == np.asarray(sheet)[0, 0]).all(), "the right margin is empty"


def test_text_is_cut_to_its_width_and_wrapped_between_words():
    assert fit_text("short", 14, 400) == "short"
    cut = fit_text("a much longer line than fits", 14, 90)
    assert cut.endswith("…") and text_width(cut, 14) <= 90
    lines = wrap_text("one two three four five six seven", 14, 80, max_lines=2)
    assert len(lines) == 2 and lines[1].endswith("…")
    assert all(text_width(line, 14) <= 80 for line in lines)
    assert wrap_text("", 14, 80, 2) == []


def test_letters_that_the_first_font_lacks_are_drawn_by_the_second():
    assert font_for("nSSM .41 ± .02", 16).getname()[0] == "Aileron"
    assert font_for("лиса на полу", 16).getname()[0] == "DejaVu Sans"


def test_a_tensor_is_clamped_and_rounded_to_eight_bits():
    values = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1).expand(3, 2, 2)
    assert to_picture(values).getpixel((0, 0)) == (0, 128, 255)


def test_captions_show_undefined_scores_as_such():
    assert score_caption(0.414, 1.0) == "nSSM .41 · VSM 1.00"
    assert score_caption(float("nan"), None) == "nSSM n/a · VSM n/a"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: contact_sheet([], columns=["a"], title="t"), "at least one row"),
        (
            lambda: contact_sheet(
                [SheetRow(label="a", reference=RED, results=[RED])], columns=["a"], title="t"
            ),
            "2 columns",
        ),
        (
            lambda: contact_sheet(
                [SheetRow(label="fox", reference=RED, results=[RED], captions=["1", "2"])],
                columns=["a", "b"],
                title="t",
            ),
            "'fox' has 1 results and 2 captions",
        ),
        (
            lambda: comparison_sheet(
                [
                    ComparisonRow(label="a", reference=RED, results={"base": [RED]}),
                    ComparisonRow(label="b", reference=RED, results={"explore": [RED]}),
                ],
                seeds=["0"],
                title="t",
            ),
            "row 'b' shows the models",
        ),
        (
            lambda: comparison_sheet(
                [ComparisonRow(label="a", reference=RED, results={"base": [RED]})],
                seeds=["0", "1"],
                title="t",
            ),
            "for each of 2 seeds, got 1",
        ),
        (lambda: to_picture(torch.zeros(1, 3, 8, 8)), r"shape \(3, H, W\), got \(1, 3, 8, 8\)"),
    ],
)
def test_sheets_that_do_not_add_up_are_refused_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
