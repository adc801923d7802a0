"""docs/experiments.md says how many cells there are, and the pages of the paper's questions are those of the cells."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from divrl_core.evaluation.experiment import cell_path
from divrl_core.evaluation.experiment_results import Results
from divrl_core.evaluation.experiments import EXPERIMENTS
from divrl_core.evaluation.paper_questions import QUESTIONS
from divrl_core.evaluation.paper_report import page
from train_cli.experiment import FOLDERS

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 3
ROWS = dict(
    re.findall(
        r"^\| `(\w+)` \|.*\| (\d+ of \d+) \|$", (ROOT / "docs/experiments.md").read_text(), re.MULTILINE
    )
)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_cells_are_counted(name: str) -> None:
    cells = ROOT / FOLDERS[name] / "cells"
    plans = [EXPERIMENTS[name].plan(seed=seed, threads=None) for seed in range(SEEDS)]
    files = [cell_path(cells, plan, model) for plan in plans for model in plan.names]
    assert ROWS[name] == f"{sum(file.is_file() for file in files)} of {len(files)}"


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_page_is_that_of_its_cells(question: str) -> None:
    folder = ROOT / FOLDERS[question]
    results = Results.read(folder / "cells", QUESTIONS[question].order)
    written = folder / f"{question}.md"
    assert written.read_text(encoding="utf-8") == page(question, results), (
        f"run divrl-train experiment {question}"
    )
    assert written.with_suffix(".png").is_file()
    assert not re.search(r"\b(nan|inf)\b", written.read_text(encoding="utf-8")), "what is undefined is n/a"
