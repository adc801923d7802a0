"""Names on a plane keep apart; figures are as they are told; thumbnails fit."""

from __future__ import annotations

import io
import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from divrl_core.config import BackboneConfig
from divrl_core.evaluation.benchmarks.base import Question
from divrl_core.evaluation.evaluation_pages.contact import contact_sheets
from divrl_core.evaluation.evaluation_pages.labels import Box, place_labels
from divrl_core.evaluation.evaluation_pages.palette import DARK, looks, standalone
from divrl_core.evaluation.evaluation_pages.planes import Spot, plane_figure, planes
from divrl_core.evaluation.evaluation_pages.progress import progress_of, run_behind
from divrl_core.evaluation.evaluation_pages.structure import structure_sheets
from divrl_core.evaluation.evaluation_pages.thumbnails import SIDES_PX, encoded, size_for
from divrl_core.evaluation.metrics.backbone import BackboneScorer
from divrl_core.evaluation.metrics.base import Shot, Subject
from divrl_core.evaluation.standings.bootstrap import Interval
from divrl_core.evaluation.standings.disagreement import by_disagreement, chosen_metric
from divrl_core.evaluation.standings.standings import Standings
from divrl_core.evaluation.svg import COLOURS, style
from divrl_core.models.features.base import load_backbone
from divrl_core.training.references import PromptPair

from ..made_evaluation import make_evaluation, with_values
from ..synthetic_run import make_run


def overlaps(boxes) -> float:
    return sum(one.overlap(other) for one, other in itertools.combinations(boxes, 2))


def interval(value: float, half: float) -> Interval:
    return Interval(value=value, low=value - half, high=value + half)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.floats(0.3, 1), st.floats(0.1, 0.6)), min_size=2, max_size=7, unique=True))
def test_names_on_a_plane_lie_neither_on_each_other_nor_over_the_edge(places) -> None:
    names = ["base", "explore", "suppress", "linear-0.4", "a model with a long name", "x", "kontext"][
        : len(places)
    ]
    spots = [
        Spot(name=name, across=interval(x, 0.03), up=interval(y, 0.02)) for name, (x, y) in zip(names, places)
    ]
    with style():
        _, boxes = plane_figure(spots, "across", "up", looks(names))
    assert overlaps(boxes) == 0
    assert all(box.left >= 0 and box.right <= 368 and box.bottom >= 0 and box.top <= 350 for box in boxes)


def test_a_name_keeps_off_points_and_bars() -> None:
    frame, bar = Box(0, 0, 300, 300), Box(100, 148, 200, 152)
    (label,) = place_labels([(150, 150)], [(60, 15)], [Box(144, 144, 156, 156), bar], frame)
    assert label.box.overlap(bar) == 0 and label.box.outside(frame) == 0 and not label.is_far


def test_no_two_models_look_alike_up_to_many() -> None:
    found = looks([*(f"m{place}" for place in range(12)), "explore"])
    assert len({(one.colour, one.marker) for one in found.values()}) == 13
    assert found["explore"].colour == "explore" and found["m0"].colour == "base"
    assert set(DARK) == set(COLOURS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return make_evaluation(folder, models=("base", "better"), references=8, size_px=64)


def test_both_planes_are_drawn_where_their_metrics_were_measured(made) -> None:
    found = planes(Standings(made))
    assert [one.name for one in found] == ["in_domain", "out_of_domain"]
    assert all(Image.open(io.BytesIO(one.png)).width > 600 for one in found)
    fewer = replace(made, measured=tuple(one for one in made.measured if one.metric.name != "sdino"))
    assert [one.name for one in planes(Standings(fewer))] == ["in_domain"]


def test_a_model_without_a_consistent_picture_is_named_as_absent(made) -> None:
    low = {place: {**one, "vsm": 0.1} for place, one in made.values["better"].items()}
    found = planes(Standings(with_values(made, {"better": low})))
    assert found[0].absent == ("better",) and found[1].absent == ()


def test_a_chart_alone_is_whole_and_light_or_dark_as_its_readers_system(made) -> None:
    (first, _) = planes(Standings(made))
    root = ET.fromstring(standalone(first.svg))
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme:dark" in standalone(first.svg) and DARK["paper"] in standalone(first.svg)


def test_contact_sheets_show_six_pictures_of_every_model(made) -> None:
    metric = chosen_metric(made)
    sheets = contact_sheets(made, metric, most=2)
    assert len(sheets) == 2 and len({sheet.width for sheet in sheets}) == 1


def test_a_file_that_is_no_picture_is_named(tmp_path) -> None:
    made = make_evaluation(tmp_path, models=("base", "better"), references=1, size_px=32)
    metric = chosen_metric(made)
    made.picture("better", by_disagreement(made, metric)[0].place).write_bytes(b"no")
    with pytest.raises(ValueError, match=r"better.*png: is no picture that can be read .*; delete it"):
        contact_sheets(made, metric)


@pytest.mark.parametrize("pool", [None, 2])
def test_the_number_below_a_map_is_the_one_of_the_table(tmp_path, pool: int | None) -> None:
    config = BackboneConfig(name="pocket", nssm_pool=pool)
    evaluation = make_evaluation(tmp_path, models=("base", "better"), references=1, size_px=64)
    (first, *_) = by_disagreement(evaluation, chosen_metric(evaluation))
    (found,) = structure_sheets(evaluation, [first], load_backbone(config), pool=pool or 1)
    scorer = BackboneScorer.load(config)
    reference = Image.open(evaluation.reference(first.place.reference_id)).convert("RGB")
    whole = torch.ones(64, 64, dtype=torch.bool)
    subject = Subject(reference_id=first.place.reference_id, picture=reference, mask=whole)
    question = Question(pair=PromptPair("fox#0", subject.reference_id, "a fox"), number=0)
    picture = Image.open(evaluation.picture("better", first.place)).convert("RGB")
    values = scorer.score([Shot(picture=picture, question=question, k=0)], scorer.prepare(subject))
    assert found.columns[1].nssm == pytest.approx(float(values["nssm"][0]), abs=1e-5)


def test_structure_of_the_reference_itself_is_its_own_and_masks_beside_it_count(made, tmp_path) -> None:
    evaluation = make_evaluation(tmp_path, models=("base", "better"), references=1, size_px=128)
    chosen = by_disagreement(evaluation, chosen_metric(evaluation))[:1]
    reference = evaluation.reference("fox_00")
    evaluation.picture("base", chosen[0].place).write_bytes(reference.read_bytes())
    backbone = load_backbone(BackboneConfig(name="pocket"))
    (found,) = structure_sheets(evaluation, chosen, backbone)
    base, better = found.columns
    assert base.nssm == pytest.approx(0, abs=1e-4) and better.nssm > 0.01
    assert np.array_equal(np.asarray(base.map), np.asarray(found.reference.map))
    assert not found.is_masked and found.source == backbone.source
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (32, 32, 96, 96))
    mask.save(reference.with_name("fox_00.mask.png"))
    (masked,) = structure_sheets(evaluation, chosen, backbone)
    assert masked.is_masked and masked.reference.map.width < found.reference.map.width


def test_the_run_behind_a_lora_is_found_and_its_parents_come_first(tmp_path) -> None:
    explore = make_run(tmp_path / "explore")
    run = make_run(tmp_path / "suppress", stage="suppress", init_lora=str(explore))
    assert run_behind(run / "lora" / "best.safetensors") == run_behind(run) == run
    assert run_behind(tmp_path / "elsewhere.safetensors") is None
    one, two = progress_of({"first": explore, "second": run})
    assert one.stages == ("explore",) and two.stages == ("explore", "suppress") and two.updates == 80
    metrics = [chart["metric"] for chart in two.charts]
    assert {"nssm", "vsm", "consistency_ratio", "diversity_over_consistency"} <= set(metrics)
    ids = [chart["svg"].count('id="run-1-curve') for chart in two.charts]
    assert all(ids) and not any('id="run-1-' in chart["svg"] for chart in one.charts)


def noisy(folder: Path, count: int) -> list[Path]:
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8)).save(file)
        files.append(file)
    return files


def test_thumbnails_are_as_large_as_the_budget_allows(tmp_path) -> None:
    files = noisy(tmp_path, 8)
    assert size_for(files, 4).side_px == SIDES_PX[0] and size_for(files, 4).shown == 4
    each = [len(encoded(Image.open(files[0]), side)) * 4 / 3 * 1.15 * 8 for side in SIDES_PX]
    tight = size_for(files, 4, budget_bytes=each[2] * 1.03)
    assert tight.side_px == SIDES_PX[2] and tight.shown == 4
    fewer = size_for(files, 4, budget_bytes=each[-1] / 2)
    assert fewer.side_px == SIDES_PX[-1] and fewer.shown in (1, 2)
    assert size_for([], 0).shown == 0
