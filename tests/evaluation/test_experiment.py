"""The experiment: every cell done once, from the same noise; its page says what the cells say."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from divrl_core.config import RewardConfig
from divrl_core.evaluation.demo_settings import DemoEvaluation
from divrl_core.evaluation.experiment import Sources, made_with, run_experiment
from divrl_core.evaluation.experiment_plan import (
    BASE,
    EXPLORE_UPDATES,
    LINEAR_WEIGHTS,
    SUPPRESS_UPDATES,
    Arm,
    ExperimentPlan,
    experiment_plan,
)
from divrl_core.evaluation.experiment_report import page, write_experiment_report
from divrl_core.evaluation.experiment_results import (
    Cell,
    Results,
    above_the_linear_line,
    expectations,
)
from divrl_core.evaluation.made_with import follows_alike, model_hashes
from divrl_core.evaluation.stage_runs import run_stage
from divrl_core.training.data import RunData

from .toy_references import ToyReferences, tiny_stage


def tiny_plan(pipeline, seed: int = 0) -> ExperimentPlan:
    explore = tiny_stage(pipeline, "explore")
    return ExperimentPlan(
        seed=seed,
        arms=(
            Arm(name="explore", config=explore),
            Arm(name="suppress", config=tiny_stage(pipeline, "suppress"), starts_from="explore"),
            Arm(name="vsm", config=replace(explore, reward=RewardConfig(kind="vsm"))),
        ),
        evaluation=DemoEvaluation(
            seed=7, references=2, pictures=4, steps=2, shown_references=2, shown_pictures=2
        ),
        judged_as=explore,
    )


SOURCES = Sources(
    data=RunData(train=ToyReferences(("ant", "bee")), held_out=ToyReferences(("cat", "dog"))),
    last_references=ToyReferences(("elk", "fox")),
)


def carry_out(pipeline, output, **more):
    return run_experiment(output, [tiny_plan(pipeline)], model=pipeline, sources=SOURCES, **more)


@pytest.fixture(scope="module")
def finished(tiny_pipeline, tmp_path_factory):
    output = tmp_path_factory.mktemp("experiment") / "full"
    return output, carry_out(tiny_pipeline, output)


def test_an_experiment_leaves_a_cell_a_model_and_a_page_with_figures(finished):
    output, written = finished
    cells = sorted(path.name for path in (output / "cells" / "seed-0").iterdir())
    assert cells == ["base.json", "explore.json", "suppress.json", "vsm.json"]
    assert written == output / "experiment.md"
    text = written.read_text(encoding="utf-8")
    for name in ("frontier.png", "curves.png", "sheet.jpg"):
        assert (output / name).stat().st_size > 5000 and name in text
    assert "suppress − explore" in text
    report = (output / "seed-0" / "report.html").read_text(encoding="utf-8")
    assert "Beside its rivals" in report and "Show all 4 comparisons" in report


def test_all_models_of_a_seed_made_the_same_pictures(finished):
    output, _ = finished
    cells = Results.read(output / "cells")
    names = [
        [(s["reference_id"], s["prompt"], s["sample"]) for s in cells.cells(model)[0].samples]
        for model in cells.models
    ]
    assert len(names) == 4 and all(one == names[0] for one in names)
    nssm = [[s["nssm"] for s in cells.cells(model)[0].samples] for model in cells.models]
    assert nssm[0] != nssm[1], "a LoRA changes them"


def test_a_suppress_cell_holds_the_curve_of_both_stages(finished):
    output, _ = finished
    curve = json.loads((output / "cells/seed-0/suppress.json").read_text())["curve"]
    assert {row["arm"] for row in curve} == {"explore", "suppress"}
    assert {row["kind"] for row in curve} == {"train", "heldout"}


def test_finished_cells_are_not_done_again_and_a_lost_one_comes_out_alike(finished, tiny_pipeline, tmp_path):
    output, _ = finished
    cells = output / "cells" / "seed-0"
    before = {path.name: path.read_text() for path in cells.iterdir()}
    assert run_experiment(
        tmp_path / "elsewhere", [tiny_plan(tiny_pipeline)], cells=output / "cells", model=tiny_pipeline
    ), "nothing is missing, so nothing is trained, and no references are asked for"
    assert not (tmp_path / "elsewhere" / "seed-0" / "explore").exists()
    (cells / "vsm.json").unlink()
    carry_out(tiny_pipeline, output)
    assert {path.name: path.read_text() for path in cells.iterdir()} == before


def test_a_cell_made_with_other_settings_is_made_again(finished, tiny_pipeline):
    plan = tiny_plan(tiny_pipeline)
    other = replace(
        plan, arms=tuple(replace(arm, config=replace(arm.config, optim=replace(arm.config.optim, lr=2e-3)))
                         if arm.name == "explore" else arm for arm in plan.arms)
    )  # fmt: skip
    hashes = {name: [made_with(one, name, {})["hash"] for one in (plan, other)] for name in plan.names}
    changed = {name for name, (first, second) in hashes.items() if first != second}
    assert changed == {"explore", "suppress"}, "suppress follows from explore; base and vsm do not"
    assert made_with(plan, BASE, {"model/x": "1"}) != made_with(plan, BASE, {"model/x": "2"})


def test_a_finished_run_of_other_settings_is_not_taken_for_this_one(finished, tiny_pipeline):
    """Otherwise a cell would say that it was made with settings that its run never had."""
    output, _ = finished
    plan = tiny_plan(tiny_pipeline)
    vsm = plan.arm("vsm").config
    other = replace(vsm, optim=replace(vsm.optim, lr=2e-3))
    assert run_stage(vsm, output / "seed-0" / "vsm").is_file()
    with pytest.raises(ValueError, match=r"optim.lr \(0.001 -> 0.002\)"):
        run_stage(other, output / "seed-0" / "vsm")


def test_a_setting_that_came_later_does_not_undo_a_cell_while_it_has_its_default():
    before = {"explore.optim.lr": 1e-3, "model/x": "1"}
    defaults = {"optim.lr": 3e-4, "grpo.new": (1, 2)}
    assert follows_alike(before, before | {"explore.grpo.new": [1, 2]}, defaults)
    assert not follows_alike(before, before | {"explore.grpo.new": [1, 3]}, defaults)
    assert not follows_alike(before, before | {"explore.optim.lr": 2e-3}, defaults)
    rival = {"linear-0.2.optim.lr": 1e-3}
    assert follows_alike(rival, rival | {"linear-0.2.grpo.new": [1, 2]}, defaults), "a name with a dot"
    assert not follows_alike(before, {"model/x": "1"}, defaults), "a setting that is gone"
    assert not follows_alike(before, before | {"model/y": "2"}, defaults), "a file that came"


def test_loras_beside_the_model_undo_no_cell(tmp_path):
    """They are made from the model; cells of before they were shipped, or between two of them, are as good."""
    for name in ("transformer/a.safetensors", "loras/explore.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    assert set(model_hashes(tmp_path)) == {"model/transformer/a.safetensors"}
    before = model_hashes(tmp_path) | {"model/loras/explore.safetensors": "1"}
    assert follows_alike(before, model_hashes(tmp_path), {})


def test_a_file_in_the_place_of_the_cells_is_refused_before_anything_is_trained(tiny_pipeline, tmp_path):
    (tmp_path / "cells").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        carry_out(tiny_pipeline, tmp_path / "full", cells=tmp_path / "cells")
    assert not (tmp_path / "full").exists()


def test_when_time_is_over_no_further_cell_is_begun(tiny_pipeline, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="divrl"):
        assert carry_out(tiny_pipeline, tmp_path / "full", minutes=1e-9) is None
    assert "time is over" in caplog.text


def test_the_plan_compares_at_equal_compute():
    plan = experiment_plan(seed=3, threads=None)
    assert plan.names == (
        BASE, "explore", "suppress", "vsm", "linear-0.2", "linear-0.4", "linear-0.6", "linear-0.8"
    )  # fmt: skip
    updates = {name: sum(arm.config.run.updates for arm in plan.line_of(name)) for name in plan.names[2:]}
    assert set(updates.values()) == {EXPLORE_UPDATES + SUPPRESS_UPDATES}
    assert {arm.config.run.seed for arm in plan.arms} == {3}
    assert {arm.config.rollout for arm in plan.arms} == {plan.arms[0].config.rollout}
    assert {arm.config.reward.backbone for arm in plan.arms} == {plan.arms[0].config.reward.backbone}
    weights = [arm.config.reward.vsm_weight for arm in plan.arms if arm.config.reward.kind == "linear"]
    assert tuple(weights) == LINEAR_WEIGHTS
    assert plan.evaluation.pictures >= 200 and plan.evaluation.steps == 28


# The page, from made-up cells whose numbers are known.


def cell(
    model: str, seed: int, *, nssm: float, vsm: float, clean: float, degrees: float, figures: int = 10
) -> Cell:
    """Ten figures with scores that stray a little, so that errors are not zero."""
    samples = [
        {
            "reference_id": f"f{number}", "prompt": "p", "sample": 0, "nssm": nssm + 0.01 * (number % 3),
            "vsm": vsm + 0.001 * (number % 2), "clean": float(number < clean * figures),
            "identity_error": 0.05, "pose_change_deg": degrees,
        }
        for number in range(figures)
    ]  # fmt: skip
    summary = {
        "n": figures, "n_references": figures, "steps": 28, "nssm": nssm, "vsm": vsm, "clean_share": clean,
        "pose_change_deg": degrees, "identity_error": 0.05,
    }  # fmt: skip
    return Cell(
        model=model, seed=seed, summary=summary, samples=tuple(samples), curve=(),
        settings={"backbone": "b", "consistency_cutoff": 0.5},
    )  # fmt: skip


def cells_of(seed: int) -> list[Cell]:
    return [
        cell("base", seed, nssm=0.1, vsm=0.95, clean=0.9, degrees=3),
        cell("explore", seed, nssm=0.4, vsm=0.6, clean=0.3, degrees=20),
        cell("suppress", seed, nssm=0.3, vsm=0.93, clean=0.8, degrees=14),
        cell("vsm", seed, nssm=0.05, vsm=0.97, clean=0.9, degrees=2),
        cell("linear-0.2", seed, nssm=0.35, vsm=0.7, clean=0.4, degrees=18),
        cell("linear-0.8", seed, nssm=0.08, vsm=0.96, clean=0.9, degrees=3),
    ]


def test_expectations_are_held_against_the_cells():
    results = Results([*cells_of(0), *cells_of(1)])
    verdicts = {one.text: one.holds for one in expectations(results)}
    alone = {one.text: one.holds for one in expectations(Results(cells_of(0)))}
    assert [text for text, holds in alone.items() if holds is None] == [
        next(t for t in alone if "beyond the line" in t)
    ]
    assert verdicts.pop("suppress: share of whole pictures at most .05 below the base's") is False
    assert all(holds is True for holds in verdicts.values()), verdicts


def test_a_missing_model_leaves_its_expectations_unknown():
    results = Results([cell("base", 0, nssm=0.1, vsm=0.95, clean=0.9, degrees=3)])
    assert {one.holds for one in expectations(results)} == {None}
    assert "not known" in page(results, has_sheet=False)


def consistent_cell(model: str, ratio: float, nssm: float) -> Cell:
    """A hundred pictures, of which a share lies above the cut-off."""
    plain = cell(model, 0, nssm=nssm, vsm=0.9, clean=1, degrees=3, figures=100)
    samples = ({**one, "nssm": nssm, "vsm": 0.9 if place < round(100 * ratio) else 0.1}
               for place, one in enumerate(plain.samples))  # fmt: skip
    return replace(plain, samples=tuple(samples))


def test_the_line_of_the_linear_weights_is_read_at_the_same_consistency():
    line = [
        consistent_cell("base", 0.95, 0.1),
        consistent_cell("linear-0.2", 0.7, 0.35),
        consistent_cell("linear-0.8", 0.96, 0.08),
    ]
    results = Results([*line, consistent_cell("suppress", 0.93, 0.3)])
    # between linear-0.2 (.7, .35) and base (.95, .1): at .93 the line is at .35 - .25 * .23 / .25 = .12
    assert above_the_linear_line(results) == pytest.approx(0.3 - 0.12, abs=1e-9)
    beyond = [*line[:2], consistent_cell("suppress", 0.99, 0.3)]
    assert math.isnan(above_the_linear_line(Results(beyond)))


def test_whole_pictures_in_another_pose_are_counted():
    made = cell("base", 0, nssm=0.1, vsm=0.9, clean=0.5, degrees=20)
    assert made.measures["new_pose_share"] == 0.5 and made.measures["turned_share"] == 1
    assert cell("base", 0, nssm=0.1, vsm=0.9, clean=0.5, degrees=5).measures["new_pose_share"] == 0


def test_the_table_gives_means_and_spread_over_seeds():
    first, second = (
        cell("base", seed, nssm=value, vsm=0.9, clean=1, degrees=3) for seed, value in ((0, 0.1), (1, 0.3))
    )
    text = page(Results([first, second]), has_sheet=False)
    assert "| base | 0.200 ± 0.141 |" in text


def test_the_committed_page_is_that_of_the_committed_cells():
    folder = Path(__file__).parents[2] / "docs" / "experiment"
    results = Results.read(folder / "cells")
    assert results.models[:3] == ("base", "explore", "suppress")
    assert (folder / "experiment.md").read_text("utf-8") == page(results, has_sheet=True)


def test_a_file_that_is_no_cell_is_named_in_one_line(tmp_path):
    (tmp_path / "seed-0").mkdir()
    (tmp_path / "seed-0" / "base.json").write_text('{"model": "base", "seed": 0}')
    with pytest.raises(
        ValueError, match=r"base.json is no cell of an experiment: it has no made_with, no settings"
    ):
        Results.read(tmp_path)


def test_no_cells_no_page(tmp_path):
    assert write_experiment_report(tmp_path / "none", tmp_path) is None
    assert list(tmp_path.iterdir()) == []
