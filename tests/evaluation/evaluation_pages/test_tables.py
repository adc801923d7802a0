"""Tables in every form say the same, and can be read by what they are for."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from divrl_core.evaluation.contest.evaluated import Model
from divrl_core.evaluation.evaluation_pages.table_files import pictures_csv, table_csv, write_tables
from divrl_core.evaluation.evaluation_pages.table_texts import escape, latex, markdown
from divrl_core.evaluation.evaluation_pages.tables import (
    collections_table,
    differences_table,
    family_tables,
    left_out,
    main_table,
)
from divrl_core.evaluation.standings.standings import Standings

from ..made_evaluation import make_evaluation, with_values


@pytest.fixture(scope="module")
def standings(tmp_path_factory) -> Standings:
    folder = tmp_path_factory.mktemp("made")
    return Standings(make_evaluation(folder, models=("base", "better", "trained"), with_pictures=False))


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_csv_has_a_line_a_number_with_all_that_it_rests_on(standings) -> None:
    rows = read(table_csv(main_table(standings)))
    assert len(rows) == 3 * 12
    (row,) = [one for one in rows if (one["model"], one["metric"]) == ("better", "clip_t")]
    estimate = standings.mean(
        next(one for one in standings.columns if one.name == "clip_t"), standings.models[1]
    )
    assert float(row["value"]) == pytest.approx(estimate.value, rel=1e-5)
    assert float(row["low"]) < float(row["value"]) < float(row["high"])
    assert [row[name] for name in ("n", "questions", "references", "mark", "rewarded")] == [
        "144",
        "72",
        "24",
        "best",
        "",
    ]
    assert row["source"] == "CLIP-T's network, size_B"
    flagged = {one["metric"] for one in rows if one["rewarded"]}
    assert flagged == {"vsm", "consistency_ratio"}


def test_every_picture_is_in_pictures_csv_and_undefined_is_empty(standings) -> None:
    rows = read(pictures_csv(standings))
    assert len(rows) == 3 * (144 + 72)
    first = rows[0]
    assert first["file"] == "pictures/base/fox_00/0_0.png" and first["set_distance"] == ""
    whole = [one for one in rows if one["k"] == ""]
    assert len(whole) == 3 * 72 and all(one["set_distance"] and not one["clip_t"] for one in whole)


def test_markdown_has_marks_intervals_n_and_every_network_at_its_foot(standings) -> None:
    text = markdown(main_table(standings))
    (line,) = [one for one in text.splitlines() if one.startswith("| CLIP-T")]
    assert re.fullmatch(r"\| CLIP-T ↑ \|( \S*\.\d{3}\S* \[\.\d{3},\u00a0\.\d{3}\] \|){3} 144 \|", line), line
    assert line.count("**") == 2
    assert re.search(r"\| VSM ↑ .*\*\*\.\d{3}\*\*†", text)
    for words in (
        "trained: trained.safetensors.",
        "Rewarded by VSM.",
        "sDINO by: sDINO's network, size\\_B.",
        "Seed 0, 28 steps",
    ):
        assert words in text, words


def test_second_is_underlined_only_where_there_is_a_third_behind_it(standings) -> None:
    text = markdown(main_table(standings))
    (line,) = [one for one in text.splitlines() if one.startswith("| CLIP-T")]
    assert "<ins>" in line  # better, base, trained: all apart
    two = Standings(replace(standings.evaluation, models=standings.evaluation.models[:2]))
    assert "<ins>" not in markdown(main_table(two)).partition("\n- ")[0]


def test_families_and_collections_and_differences_have_tables_of_their_own(standings) -> None:
    assert [table.name for table in family_tables(standings)] == [
        "family-identity", "family-structure", "family-prompt", "family-within-the-set", "family-quality",
        "family-truth",
    ]  # fmt: skip
    collections = collections_table(standings)
    assert collections is not None and len(collections.rows) == 24
    assert collections.rows[0].label == "Consistency ratio (VSM > .6) ↑ · animal"
    (row,) = [row for row in collections.rows if row.column.name == "clip_t" and row.part == "object"]
    assert [(one.estimate.n, one.estimate.references) for one in row.cells] == [(72, 12)] * 3
    differences = differences_table(standings)
    assert differences is not None and differences.header == (
        "better − base",
        "trained − base",
        "trained − better",
    )
    to_better = differences_table(standings, standings.models[1])
    assert to_better is not None and to_better.header == ("trained − better",)
    assert differences_table(standings, standings.models[2]) is None


def test_undefined_and_missing_values_are_counted(standings) -> None:
    evaluation = standings.evaluation
    values = dict(evaluation.values["base"])
    places = [place for place in values if place.k is not None][:3]
    values[places[0]] = {**values[places[0]], "clip_t": float("nan")}
    del values[places[1]], values[places[2]]
    found = Standings(with_values(evaluation, {"base": values}))
    assert "CLIP-T, values left out: base 1 undefined and 2 missing." in left_out(
        found, found.measured_columns
    )


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b & 50%", r"a\_b \& 50\%"),
        ("C:\\x{y}#$~^", r"C:\textbackslash{}x\{y\}\#\$\textasciitilde{}\textasciicircum{}"),
        ("+.1 − .2", "+.1 $-$ .2"),
        ("café 模", r"café \texttt{U+6A21}"),
    ],
)
def test_latex_is_escaped(text, escaped) -> None:
    assert escape(text) == escaped


def test_latex_marks_the_best_and_the_second(standings) -> None:
    text = latex(main_table(standings))
    (line,) = [one for one in text.splitlines() if one.startswith("CLIP-T")]
    assert (
        re.search(r"\\textbf\{\.\d{3}\} \{\\scriptsize \[\.\d{3},~\.\d{3}\]\}", line)
        and r"\underline{" in line
    )
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert text.count("{") == text.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_whatever_the_names_are(tmp_path, standings) -> None:
    names = ("base_1 & 50%", "模型 {x}", r"C:\models\#3~^")
    models = tuple(Model(name=name, about=f"about {name} “quoted” <a|b>") for name in names)
    values = dict(zip(names, standings.evaluation.values.values()))
    evaluation = replace(standings.evaluation, models=models, values=values, benchmark="DreamBench++ α_β")
    write_tables(Standings(evaluation), tmp_path)
    ended = subprocess.run(
        ["pdflatex", "-interaction=batchmode", "-halt-on-error", "all.tex"], cwd=tmp_path, capture_output=True
    )
    assert ended.returncode == 0, (tmp_path / "all.log").read_text()[-2000:]
