from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from divrl_core.evaluation.curves import StageCurve, metric_chart
from divrl_core.evaluation.plane import Cloud, PlanePoint, cloud_chart, plane_chart
from divrl_core.evaluation.svg import COLOURS, plain_tick

SVG = "{http://www.w3.org/2000/svg}"


def stage(name: str, values: list[float | None], **fields: object) -> StageCurve:
    train = [{"update": update, "nssm": value, "vsm": value} for update, value in enumerate(values, 1)]
    heldout = [{"update": 0, "nssm": 0.4, "nssm_se": 0.01, "vsm": 0.4, "vsm_se": None}]
    return StageCurve(stage=name, train=train, heldout=heldout, **fields)


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()).strip() for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def point(name: str, consistency: float, diversity: float) -> PlanePoint:
    return PlanePoint(
        name=name, consistency=consistency, consistency_se=0.02, diversity=diversity, diversity_se=math.nan
    )


def test_a_chart_is_one_svg_element_with_a_description_and_words_as_text():
    svg = metric_chart([stage("explore", [0.1, 0.2, 0.3])], "nssm", label="nSSM")
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img"
    assert root.get("aria-label") == "nSSM. explore: from 0.4 to 0.4 over 3 updates."
    assert "update" in texts(svg) and "explore" in texts(svg)


def test_two_stages_follow_each_other_with_a_boundary_between():
    one = metric_chart([stage("explore", [0.1] * 40)], "nssm", label="nSSM")
    two = metric_chart([stage("explore", [0.1] * 40), stage("suppress", [0.2] * 40)], "nssm", label="nSSM")
    assert max(float(text) for text in texts(one) if text.isdigit()) == 40
    assert max(float(text) for text in texts(two) if text.isdigit()) >= 75
    boundary = f"stroke: var(--muted, {COLOURS['muted']})"
    assert two.count(boundary) == one.count(boundary) + 1


def test_every_colour_follows_the_theme_of_the_page():
    svg = metric_chart([stage("explore", [0.1] * 20)], "nssm", label="nSSM")
    without_variables = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", svg)
    assert "var(--explore, #d55e00)" in svg
    assert not re.search(r"#[0-9a-f]{6}\b", without_variables)


def test_ids_of_different_charts_do_not_collide():
    stages = [stage("explore", [0.1] * 20)]
    ids = [
        set(re.findall(r'\bid="([^"]+)"', metric_chart(stages, name, label=name))) for name in ("nssm", "vsm")
    ]
    assert ids[0] and not ids[0] & ids[1]
    svg = metric_chart(stages, "nssm", label="nssm")
    for target in re.findall(r'(?:url\(|href=")#([^)"]+)', svg):
        assert f'id="{target}"' in svg


def test_charts_are_the_same_every_time():
    stages = [stage("explore", [0.1, 0.3, 0.2] * 6)]
    assert metric_chart(stages, "nssm", label="x") == metric_chart(stages, "nssm", label="x")


@pytest.mark.parametrize("values", [[], [None], [0.1], [math.nan, 0.2, None] * 8])
def test_short_and_undefined_curves_are_drawn_with_gaps(values):
    svg = metric_chart([stage("explore", values)], "nssm", label="nSSM")
    assert "nan" not in re.sub(r'aria-label="[^"]*"', "", svg).lower()


def test_the_gate_is_drawn_on_the_vsm_chart_alone():
    stages = [stage("suppress", [0.3] * 20, gate=0.55)]
    assert "gate .55" in texts(metric_chart(stages, "vsm", label="VSM"))
    assert "gate .55" not in texts(metric_chart(stages, "nssm", label="nSSM"))


def test_the_plane_names_every_model_and_leaves_out_one_without_consistent_pictures():
    points = [point("base", 0.8, 0.35), point("explore", 0.0, math.nan), point("suppress", 0.7, 0.42)]
    svg = plane_chart(points, cutoff=0.6)
    assert "base" in texts(svg) and "suppress" in texts(svg) and "explore" not in texts(svg)
    assert "consistency ratio (share of pictures with VSM > .6)" in texts(svg)
    assert plane_chart([]).startswith("<svg")


def boxes_of_names(svg: str, names: tuple[str, ...]) -> list[tuple[float, float, float, float]]:
    boxes = []
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        name = "".join(element.itertext()).strip()
        if name in names:
            x, y = float(element.get("x")), float(element.get("y"))
            boxes.append((x - 4 * len(name), y - 10, x + 4 * len(name), y + 3))
    return boxes


@pytest.mark.parametrize("spread", [0.0, 0.002, 0.01, 0.05, 0.3])
def test_names_on_the_plane_do_not_cover_each_other(spread):
    names = ("base", "explore", "suppress")
    points = [
        point("base", 0.6, 0.4),
        point("explore", 0.6 - spread, 0.4 + spread),
        point("suppress", 0.6, 0.4 + spread / 2),
    ]
    boxes = boxes_of_names(plane_chart(points), names)
    assert len(boxes) == 3
    for index, (left, top, right, bottom) in enumerate(boxes):
        assert left >= 0 and right <= 368
        for other in boxes[index + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, f"spread {spread}: {boxes}"


def test_the_cloud_has_a_dot_for_each_defined_picture():
    cloud = Cloud(name="base", vsm=[0.5, 0.6, math.nan, 0.7], nssm=[0.3, 0.2, 0.1, 0.4])
    svg = cloud_chart([cloud], cutoff=0.6)
    assert (
        svg.count("<use ")
        - cloud_chart([Cloud(name="base", vsm=[0.5], nssm=[0.3])], cutoff=0.6).count("<use ")
        >= 2
    )
    assert "base: mean VSM 0.600, mean nSSM 0.300" in svg


def test_ticks_are_short():
    assert [plain_tick(value) for value in (0, 0.25, -0.5, 1.5, 40, 3e-6, 3.5e-6)] == [
        "0",
        ".25",
        "-.5",
        "1.5",
        "40",
        "3e-6",
        "3.5e-6",
    ]


def test_no_tick_of_the_plane_lies_beyond_all_pictures():
    """A share of pictures is at most 1, also where every model has exactly that."""
    svg = plane_chart([point("base", 1.0, 0.1), point("explore", 1.0, 0.3)])
    ticks = [float(text) for text in texts(svg) if re.fullmatch(r"[\d.]+", text)]
    assert "1" in texts(svg) and max(ticks) == 1
