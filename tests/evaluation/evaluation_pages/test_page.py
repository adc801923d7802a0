"""The page needs nothing but itself, says what is missing, and sorts and filters by keyboard in a real browser."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from divrl_core.evaluation.blind.session import Session
from divrl_core.evaluation.contest.evaluated import read_evaluation, scores_file
from divrl_core.evaluation.evaluation_pages.page import warnings
from divrl_core.evaluation.evaluation_pages.write import write_report
from divrl_core.evaluation.standings.standings import Standings

from .. import chromium
from ..made_evaluation import make_evaluation, with_values
from ..synthetic_run import make_run
from ..test_report import Page


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Everything there is: four models, a run, a judge."""
    top = tmp_path_factory.mktemp("page")
    evaluation = make_evaluation(top / "made", models=("base", "better", "alike", "trained"), references=10)
    session = Session(evaluation, most=40)
    for number in range(40):
        session.answer(number, "left" if number % 3 else "tie", 1.0)
    session.end()
    Session(evaluation, judge="goes-on").answer(0, "left", 1.0)  # has not ended: nothing of it is told
    write_report(evaluation, runs={"better": make_run(top / "explore")})
    return evaluation.folder


@pytest.fixture(scope="module")
def page(folder) -> Page:
    return Page(folder / "report.html")


def test_the_page_asks_for_nothing_outside_itself(page) -> None:
    for link in page.links:
        assert link.startswith(("data:image/", "#", "pictures/", "references/")), link
    outside = set(re.findall(r"https?://[^\s\"'<)]+", page.html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in page.html and "@import" not in page.html
    assert len(page.ids) == len(set(page.ids))


def test_every_link_to_a_picture_leads_to_its_file(folder, page) -> None:
    links = [link for link in page.links if link.startswith(("pictures/", "references/"))]
    assert len(links) == 10 * 3 * 2 * 5
    assert all((folder / link).is_file() for link in links)


def test_the_verdict_comes_first_and_every_part_is_there(page) -> None:
    text = page.text
    words = (
        "Beyond noise, better leads on", "The verdict", "this proves nothing", "Every measure",
        "Diversity, and what it costs", "Judged blind", "1 judge, 40 pairs", "How training went",
        "What structure is", "Every picture", "How these were computed", "Rewarded by VSM", "n 60",
    )  # fmt: skip
    places = [text.find(word) for word in words]
    assert -1 not in places, dict(zip(words, places))
    assert places[:2] == sorted(places[:2])


def test_every_picture_has_words_for_those_who_cannot_see_it(page) -> None:
    assert page.images and all(image.get("alt") for image in page.images)


def test_everything_is_written_beside_the_page(folder) -> None:
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    for name in (
        "tables/main.csv", "tables/main.tex", "tables/main.md", "tables/pictures.csv", "tables/all.tex",
        "tables/collections.md", "tables/differences.csv", "tables/differences-to-base.tex",
        "figures/plane-in_domain.svg", "figures/plane-out_of_domain.png", "figures/progress-better-nssm.svg",
        "figures/progress-better-vsm.png", "figures/structure-1.png", "sheets/1.png",
    ):  # fmt: skip
        assert name in names, name


def test_what_is_missing_is_said_and_not_left_blank(tmp_path) -> None:
    evaluation = make_evaluation(tmp_path, models=("base", "better"), references=3, with_pictures=False)
    scores = scores_file(tmp_path, "better")
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:-4]))
    write_report(read_evaluation(tmp_path))
    page = Page(tmp_path / "report.html")
    assert "better: 2 of 18 pictures are not scored yet" in page.text
    assert "3 references are too few to tell a difference from noise: 5 are needed" in page.text
    assert "No difference can be told from noise" in page.text and "Every picture" not in page.text
    assert evaluation.models[0].name in page.text


def test_a_model_of_which_little_is_found_again_is_told(tmp_path) -> None:
    made = make_evaluation(tmp_path, models=("base", "better"), references=6, with_pictures=False)
    values = {
        place: {**found, "vsm": math.nan if place.k == 0 else 0.9}
        for place, found in made.values["better"].items()
    }
    lines = warnings(Standings(with_values(made, {"better": values})))
    assert len(lines) == 1 and lines[0].startswith(
        "consistency ratio, pictures that count: better 12 of 24. In the"
    )
    assert warnings(Standings(made)) == []


def test_one_model_alone_has_a_page_too(tmp_path) -> None:
    write_report(make_evaluation(tmp_path, models=("base",), references=6, size_px=24), structure_count=0)
    page = Page(tmp_path / "report.html")
    assert "base alone: there is nothing to compare it with yet." in page.text
    assert "What structure is" not in page.text and "Every picture" in page.text


def test_names_and_prompts_cannot_break_the_page(tmp_path) -> None:
    evil = '</script><img src=x onerror="alert(1)"> & "q"'
    evaluation = make_evaluation(tmp_path, models=("base", "b<i>c"), references=5, size_px=16)
    text = (tmp_path / "evaluation.json").read_text()
    (tmp_path / "evaluation.json").write_text(text.replace("in the snow", evil.replace('"', '\\"')))
    write_report(read_evaluation(evaluation.folder), structure_count=0)
    page = Page(tmp_path / "report.html")
    assert (
        evil in page.text.replace("\u00a0", " ") and "<img src=x" not in page.html and "<i>c" not in page.html
    )


def test_wrong_choices_are_refused_with_what_there_is(tmp_path) -> None:
    evaluation = make_evaluation(tmp_path, models=("base", "better"), references=1, with_pictures=False)
    with pytest.raises(ValueError, match=r"expected the names of models \(base, better\), got other"):
        write_report(evaluation, runs={"other": tmp_path})
    with pytest.raises(ValueError, match="pictures cannot be sorted by nothing: expected one of clip_t"):
        write_report(evaluation, sort_by="nothing")
    with pytest.raises(ValueError, match="is not a run folder"):
        write_report(evaluation, runs={"base": tmp_path})
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(not chromium.is_there(), reason="needs Debian's chromium")
def test_long_names_of_models_stay_on_a_narrow_page(tmp_path) -> None:
    names = [f"a model with a name_that_goes_on_and_on_{place}" + "x" * 60 for place in range(3)]
    make_evaluation(tmp_path, models=names, references=5, size_px=16)
    write_report(read_evaluation(tmp_path), structure_count=0)
    with chromium.Chromium(width=400, height=800) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        furthest = "Math.max(...[...document.querySelectorAll('h3 .tag')].map((e) => e.getBoundingClientRect().right))"
        assert browser.ask(f"document.querySelectorAll('h3 .tag').length && {furthest}") <= 400


@pytest.mark.skipif(not chromium.is_there(), reason="needs Debian's chromium")
def test_pictures_are_sorted_and_filtered_by_keyboard_in_a_browser(folder) -> None:
    shown = "[...document.querySelectorAll('.card')].filter((one) => !one.hidden)"
    with chromium.Chromium(width=400, height=800, dark=True) as browser:
        browser.open((folder / "report.html").as_uri())
        assert browser.ask("document.documentElement.scrollWidth") == 400
        assert browser.ask(f"{shown}.length") == 60
        first = browser.ask(f"{shown}[0].id")
        assert first == "card-0" and browser.ask(f"{shown}[0].classList.contains('failure')")
        browser.key("j")
        browser.key("j")
        assert browser.ask("document.activeElement.id") == browser.ask(f"{shown}[1].id")
        browser.key("f")
        assert 0 < browser.ask(f"{shown}.length") < 60
        assert browser.ask(f"{shown}.every((one) => one.classList.contains('failure'))")
        browser.key("f")
        browser.key("/")
        for letter in "snow":
            browser.key(letter)
        assert browser.ask(f"{shown}.length") == 20
        assert browser.ask("document.getElementById('count').textContent") == "20 of 60 shown."
        browser.key("Escape")
        assert browser.ask(f"{shown}.length") == 60
        browser.key("o")
        assert browser.ask("document.activeElement.id") == "order"
        browser.ask(
            "(() => { order.value = 'worst-1'; order.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        words = browser.ask(f"{shown}.map((one) => one.querySelectorAll('.score')[1].textContent)")
        values = [float(re.sub(r"VSM -?", "", one)) for one in words]
        assert values == sorted(values)
        assert browser.errors == []
        assert {one.partition(":")[0] for one in browser.requests} <= {"file", "data"}
