from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from divrl_core.evaluation.paired import MEASURES
from divrl_core.evaluation.report import write_report
from divrl_core.evaluation.results import ModelResult

from .synthetic_run import BASE, EXPLORE, SUPPRESS, add_pictures, make_demo, make_run

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The parts of a page that tests ask for; unbalanced tags are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.images: list[dict] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.html)
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "img":
            self.images.append(values)
        self.links += [values[name] for name in ("src", "href", "xlink:href") if name in values]
        if "id" in values:
            self.ids.append(values["id"])
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, tag

    def handle_data(self, data):
        if self._open and self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Page:
    folder = make_demo(tmp_path_factory.mktemp("demo") / "demo")
    return Page(write_report([folder], folder / "report.html"))


def test_the_page_needs_no_network_and_no_other_file(demo):
    for link in demo.links:
        assert link.startswith(("data:image/jpeg;base64,", "#")), link
    outside = set(re.findall(r"https?://[^\s\"'<)]+", demo.html)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not outside
    assert "<script" not in demo.html and "@import" not in demo.html


def test_every_link_inside_the_page_leads_somewhere_and_ids_are_unique(demo):
    assert len(demo.ids) == len(set(demo.ids))
    for link in demo.links:
        if link.startswith("#"):
            assert link[1:] in demo.ids
    for target in re.findall(r"url\(#([^)]+)\)", demo.html):
        assert target in demo.ids


def test_every_picture_is_a_real_jpeg_with_words_for_those_who_cannot_see_it(demo):
    assert len(demo.images) == 3 * (1 + 3 * 4)
    for image in demo.images:
        content = base64.b64decode(image["src"].partition(",")[2])
        assert Image.open(io.BytesIO(content)).size == (128, 128)
        assert re.search(r"nSSM \.\d\d, VSM \.\d\d|Reference figure-\d: a toy", image["alt"])


def test_the_demo_shows_three_models_four_claims_and_both_stages(demo):
    for words in (
        "Explore changed the structure; suppress brought identity back",
        "Held-out measures, mean ± standard error. Features: lite0; pictures in 28 deterministic steps.",
        "explore − base",
        "suppress − explore",
        "Four claims, put to the test",
        "Every held-out picture",
        "gate .55",
        "Settings of the training",
        "lite0",
    ):
        assert words in demo.text, words
    assert demo.text.count("shown") >= 4


def test_numbers_in_the_table_are_those_of_the_files(tmp_path):
    folder = make_demo(tmp_path / "demo", references=6)
    page = Page(write_report([folder], tmp_path / "r.html"))
    for name in ("base", "explore", "suppress"):
        row = json.loads((folder / "heldout" / f"{name}.json").read_text())["summary"]
        for measure in ("nssm", "vsm"):
            mean, se = (f"{row[key]:.3f}".lstrip("0") for key in (measure, f"{measure}_se"))
            assert f"{mean} ± {se} n 24" in page.text


def test_both_themes_and_narrow_screens_are_provided_for(demo):
    assert "prefers-color-scheme: dark" in demo.html and "max-width: 640px" in demo.html
    assert 'name="viewport"' in demo.html


def test_a_run_that_did_nothing_is_said_to_have_done_nothing(tmp_path):
    folder = make_demo(tmp_path / "demo", {"base": BASE, "explore": BASE, "suppress": BASE}, references=4)
    for name in ("explore", "suppress"):
        shutil.copy(folder / "heldout" / "base.json", folder / "heldout" / f"{name}.json")
    page = Page(write_report([folder], tmp_path / "r.html"))
    assert "Explore did not measurably change the structure" in page.text
    assert page.text.count("not shown") == 4


def test_one_run_alone_has_its_own_report_with_its_sheets(tmp_path):
    run = make_run(tmp_path / "solo", updates=20)
    page = Page(write_report([run], run / "report.html"))
    assert (
        "Explore raised structural change (nSSM) and lowered identity (VSM), against the base." in page.text
    )
    assert [image["alt"].partition(":")[0] for image in page.images] == [
        "Contact sheet of explore, before the first update",
        "Contact sheet of explore, after update 20",
    ]
    assert "Four claims" not in page.text


def test_a_suppress_run_brings_its_parent_along(tmp_path):
    parent = make_run(tmp_path / "explore", updates=20)
    child = make_run(
        tmp_path / "suppress", stage="suppress", levels=(EXPLORE, SUPPRESS), updates=20, init_lora=str(parent)
    )
    page = Page(write_report([child], tmp_path / "r.html"))
    assert "suppress brought identity back" in page.text and "Four claims" in page.text
    assert "suppress, update 0." in page.text, "explore is the LoRA that suppress started from"


def test_a_suppress_run_without_its_parent_says_that_the_base_is_missing(tmp_path):
    child = make_run(
        tmp_path / "s", stage="suppress", levels=(EXPLORE, SUPPRESS), updates=20, init_lora="gone.safetensors"
    )
    page = Page(write_report([child], tmp_path / "r.html"))
    assert "the run it started from was not found" in page.text
    assert "against explore" in page.text


def test_a_run_under_way_is_reported_as_far_as_it_is(tmp_path):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines[:8]) + '\n{"kind": "tr')
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "One evaluation so far" in page.text
    assert "stopped, or still running, at update 7 of 20" in page.text


def test_training_rows_alone_make_a_page_without_a_table(tmp_path):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    rows = [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    (run / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "Training is under way" in page.text and "no held-out evaluation yet" in page.text
    assert "Held-out measures, mean" not in page.text


def test_undefined_scores_are_shown_as_such_and_counted(tmp_path):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    path = run / "heldout" / "update-000020.json"
    content = json.loads(path.read_text())
    for sample in content["samples"]:
        sample["vsm"] = None
    content["summary"] |= {"vsm": None, "vsm_se": None, "undefined": len(content["samples"])}
    content["summary"] |= {"consistency_ratio": None, "diversity_over_consistency": None, "n_consistent": 0}
    path.write_text(json.dumps(content))
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "explore: 32 held-out pictures have an undefined score" in page.text
    assert "for want of a consistent picture: explore" in page.text
    assert "nan" not in page.text.lower()


def test_evaluations_that_were_not_made_alike_are_not_compared(tmp_path):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    path = run / "heldout" / "update-000020.json"
    content = json.loads(path.read_text())
    content["settings"]["steps"] = 6
    path.write_text(json.dumps(content))
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "were not made alike" in page.text and "Paired differences" not in page.text


def test_text_from_outside_cannot_become_markup(tmp_path):
    folder = make_demo(tmp_path / "demo", references=4)
    path = folder / "comparisons" / "comparisons.json"
    path.write_text(path.read_text().replace("a toy fox", "<script>alert(1)</script>"))
    html = write_report([folder], tmp_path / "r.html").read_text()
    assert "<script>" not in html and "&lt;script&gt;" in html


def test_a_report_replaces_the_old_one_in_one_step(tmp_path):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    target = tmp_path / "r.html"
    target.write_text("old")
    assert write_report([run], target) == target
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize("content", ["{", "[]", '{"summary": {}}'])
def test_a_damaged_evaluation_is_named_in_one_line(tmp_path, content):
    run = make_run(tmp_path / "solo", updates=20, with_sheets=False)
    (run / "heldout" / "update-000020.json").write_text(content)
    with pytest.raises(ValueError, match=r"update-000020\.json") as error:
        write_report([run], tmp_path / "r.html")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="at least one run folder"):
        write_report([], tmp_path / "r.html")


def test_a_measure_rests_on_the_pictures_that_have_its_score():
    samples = (
        {"nssm": None, "vsm": 0.7},
        {"nssm": None, "vsm": 0.2},
        {"nssm": 0.4, "vsm": None},
        {"nssm": 0.3, "vsm": 0.9},
    )
    row = {"n": 4, "undefined": 3, "n_consistent": 1}
    result = ModelResult(name="base", origin="", row=row, samples=samples, settings={})
    counts = {measure: result.count(measure) for measure in MEASURES}
    assert counts == {"nssm": 2, "vsm": 3, "consistency_ratio": 3, "diversity_over_consistency": 1}


def test_where_the_masks_come_from_stands_over_the_table(tmp_path):
    run = make_run(tmp_path / "one", updates=20)
    assert "masks:" not in Page(write_report([run], tmp_path / "r.html")).text
    for file in (run / "heldout").glob("*.json"):
        content = json.loads(file.read_text())
        content["settings"]["masks"] = "2 files, 1 whole picture"
        file.write_text(json.dumps(content))
    page = Page(write_report([run], tmp_path / "r.html"))
    assert "deterministic steps; masks: 2 files, 1 whole picture." in page.text


def test_every_evaluated_picture_is_there_with_what_is_true_of_it(tmp_path):
    folder = add_pictures(make_demo(tmp_path / "demo", references=2))
    page = Page(write_report([folder], tmp_path / "r.html"))
    assert "Show all 8 comparisons" in page.text
    assert len(page.images) == 3 * (1 + 3 * 4) + 8 * 4
    for words in ("whole", "broken", "90°", "error .07", "largest identity error first"):
        assert words in page.text, words
    assert "<script" not in page.html


def test_the_worst_cases_come_first_on_request(tmp_path):
    folder = add_pictures(make_demo(tmp_path / "demo", references=2))
    page = Page(write_report([folder], tmp_path / "r.html"))
    cards = re.findall(r'class="card" style="--drawn: (\d+);--identity: (\d+);--pose: (\d+);', page.html)
    assert [int(drawn) for drawn, _, _ in cards] == list(range(8))
    assert [int(identity) for _, identity, _ in cards] == list(range(8))[::-1], (
        "the last has the largest error"
    )
    assert [int(pose) for _, _, pose in cards] == list(range(8))[::-1], "the last has turned least"
    for order in ("identity", "pose", "fooled"):
        assert f"#order-{order}:checked" in page.html and f'id="order-{order}"' in page.html


def test_without_known_truth_the_measures_order_the_pictures(tmp_path):
    folder = add_pictures(make_demo(tmp_path / "demo", references=2), known=False)
    page = Page(write_report([folder], tmp_path / "r.html"))
    assert "lowest VSM first" in page.text and "broken" not in page.text


def test_a_demo_without_kept_pictures_has_no_such_section(demo):
    assert "Every evaluated picture" not in demo.text
