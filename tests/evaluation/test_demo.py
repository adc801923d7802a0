from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from divrl_core.evaluation.demo import _open, carry_out, made_with, run_demo, summary_of
from divrl_core.evaluation.demo_pictures import DemoModels, last_references
from divrl_core.evaluation.demo_settings import DemoEvaluation, DemoPlan, demo_plan
from divrl_core.evaluation.results import results_of_demo
from divrl_core.training.data import RunData, open_data

from .synthetic_run import make_demo
from .toy_references import ToyReferences, tiny_stage


@pytest.fixture(scope="module")
def finished(tiny_pipeline, tmp_path_factory):
    """A whole demo with the tiny pipeline and toy references: real training, real files."""
    output = tmp_path_factory.mktemp("demo") / "demo"
    return output, tiny_plan(tiny_pipeline), carry_out_tiny(tiny_plan(tiny_pipeline), output)


def tiny_plan(pipeline) -> DemoPlan:
    return DemoPlan(
        explore=tiny_stage(pipeline, "explore"),
        suppress=tiny_stage(pipeline, "suppress"),
        evaluation=DemoEvaluation(
            seed=7, references=2, pictures=4, steps=2, shown_references=2, shown_pictures=2
        ),
    )


def carry_out_tiny(plan: DemoPlan, output):
    data = RunData(train=ToyReferences(("ant", "bee")), held_out=ToyReferences(("cat", "dog")))
    return carry_out(plan, output, data=data, last_references=ToyReferences(("elk", "fox")))


def test_the_demo_leaves_two_loras_a_summary_a_sheet_and_a_report(finished):
    output, _, result = finished
    assert result.loras == {
        name: output / name / "lora" / "best.safetensors" for name in ("explore", "suppress")
    }
    assert all(path.stat().st_size > 1000 for path in result.loras.values())
    for name in ("summary.json", "report.html", "comparison.jpg", "heldout/base.json"):
        assert (output / name).is_file(), name
    for stage in ("explore", "suppress"):
        assert (output / stage / "report.html").is_file(), "each stage has a report of its own"
    assert "DivRL" in result.report.read_text(encoding="utf-8")


def test_the_three_models_saw_the_same_pictures_and_differ_only_by_their_lora(finished):
    output, _, _ = finished
    results = results_of_demo(output)
    assert [result.name for result in results] == ["base", "explore", "suppress"]
    names = [[(s["reference_id"], s["prompt"], s["sample"]) for s in result.samples] for result in results]
    assert names[0] == names[1] == names[2] and len(names[0]) == 4
    assert {reference for reference, _, _ in names[0]} == {"elk", "fox"}, "never trained on"
    assert results[0].settings == results[1].settings == results[2].settings


def test_a_finished_demo_is_not_done_again(finished, caplog):
    output, plan, _ = finished
    kept = [path for path in output.rglob("*") if path.suffix in (".safetensors", ".jsonl", ".json", ".png")]
    before = {path: path.stat().st_mtime_ns for path in kept if path.parent.name != "comparisons"}
    summary = (output / "summary.json").read_text()
    with caplog.at_level(logging.INFO, logger="divrl"):
        carry_out_tiny(plan, output)
    assert "all three models are evaluated" in caplog.text
    changed = [path.name for path, time in before.items() if path.stat().st_mtime_ns != time]
    assert changed in ([], ["summary.json"])
    assert (output / "summary.json").read_text() == summary


def test_a_demo_that_lost_one_evaluation_makes_that_one_again_and_alike(finished):
    output, plan, _ = finished
    path = output / "heldout" / "explore.json"
    before = path.read_text()
    path.unlink()
    carry_out_tiny(plan, output)
    assert path.read_text() == before


def test_the_summary_has_means_errors_counts_and_paired_differences(tmp_path):
    summary = summary_of(results_of_demo(make_demo(tmp_path / "demo", references=4)))
    assert set(summary) == {"base", "explore", "suppress", "paired"}
    for name in ("base", "explore", "suppress"):
        assert summary[name]["n"] == 16
        for measure in ("nssm", "vsm", "consistency_ratio", "diversity_over_consistency"):
            assert {"mean", "se"} <= set(summary[name][measure])
    paired = summary["paired"]["explore - base"]["nssm"]
    direct = summary["explore"]["nssm"]["mean"] - summary["base"]["nssm"]["mean"]
    assert paired["mean"] == pytest.approx(direct)
    assert paired["se"] > 0 and paired["n"] == 16 and paired["references"] == 4


def test_a_folder_with_something_else_or_another_demo_is_refused(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match="not empty and holds no demo"):
        run_demo(tmp_path / "full")
    with pytest.raises(ValueError, match="is a file"):
        run_demo(tmp_path / "full" / "thesis.txt")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "demo.json").write_text(json.dumps({"seed": 0, "quick": True}))
    with pytest.raises(ValueError, match="holds a demo; go on with it by --resume"):
        run_demo(tmp_path / "begun", quick=True)
    with pytest.raises(ValueError, match="holds a demo with seed=0, quick=True; resume it with the same"):
        run_demo(tmp_path / "begun", resume=True)


def begin(output, plan, model):
    """The folder of a demo of this plan and model that was stopped at once; goes on with it if it is there."""
    _open(output, {"seed": 0, "quick": True}, made_with(plan, model), resume=True)


def test_a_demo_goes_on_only_with_the_settings_and_the_model_it_was_begun_with(tmp_path):
    model, output, plan = tmp_path / "model", tmp_path / "demo", demo_plan(seed=0, threads=None, quick=True)
    model.mkdir()
    (model / "weights.safetensors").write_bytes(b"one")
    begin(output, plan, model)
    begin(output, plan, model)
    begin(output, demo_plan(seed=0, threads=2, quick=True), model)

    steeper = replace(plan, suppress=replace(plan.suppress, optim=replace(plan.suppress.optim, lr=0.5)))
    with pytest.raises(
        ValueError, match=r"changed: suppress\.optim\.lr was [0-9.]+, is 0\.5; name another"
    ) as error:
        begin(output, steeper, model)
    assert "\n" not in str(error.value)
    longer = replace(plan, evaluation=replace(plan.evaluation, pictures=7))
    with pytest.raises(ValueError, match=r"changed: evaluation\.pictures was 6, is 7; name another --output"):
        begin(output, longer, model)
    (model / "weights.safetensors").write_bytes(b"two")
    with pytest.raises(ValueError, match=r"changed: model/weights\.safetensors; .*, or delete"):
        begin(output, plan, model)


def test_a_demo_that_never_wrote_its_settings_is_refused(tmp_path):
    (tmp_path / "demo.json").write_text(json.dumps({"seed": 0, "quick": True}))
    with pytest.raises(ValueError, match="of an older version, without its settings; name another --output"):
        run_demo(tmp_path, quick=True, resume=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_last_figures_are_others_than_those_that_train_and_choose_the_best_lora(monkeypatch, seed):
    monkeypatch.setattr("divrl_core.training.data.POCKET_TRAIN_REFERENCES", 32)
    plan = demo_plan(seed=seed, threads=None, quick=False)
    seen, last = open_data(plan.explore.data, seed=seed), last_references(plan.evaluation)

    def figures(references):
        return {references.view(number).identity for number in range(references.count)}

    def pictures(references):
        names = {pair.reference_id for pair in references.pairs}
        return {references.load(name, 32).image.numpy().tobytes() for name in names}

    assert len(figures(last)) == len(pictures(last)) == plan.evaluation.references
    for others in (seen.train, seen.held_out):
        assert not figures(last) & figures(others)
        assert not pictures(last) & pictures(others)
    assert last.split == "held_out", "palettes that no training set shows"


def test_the_last_evaluation_shows_those_last_figures(tiny_pipeline, tmp_path):
    plan = tiny_plan(tiny_pipeline)
    shown = DemoModels(plan.explore, plan.evaluation, tmp_path)._references
    assert shown.pairs == last_references(plan.evaluation).pairs
    assert shown.pairs != open_data(plan.explore.data).held_out.pairs[: len(shown.pairs)]


def test_the_demo_follows_the_paper_where_it_must():
    for quick in (False, True):
        plan = demo_plan(seed=3, threads=1, quick=quick)
        assert plan.explore.reward.kind == "nssm" and plan.suppress.reward.kind == "gated"
        assert plan.explore.run.seed == plan.suppress.run.seed == 3
        assert plan.evaluation.seed != 3, "figures that training and the choice of the best have not seen"
        same = ("model", "lora", "data", "rollout")
        assert all(getattr(plan.explore, name) == getattr(plan.suppress, name) for name in same)
        # The stages differ in their length and in how often they are looked at, and in nothing else of a run.
        of_a_stage = ("updates", "sample_every_updates", "eval_every_updates", "save_every_updates")
        lengths = {name: getattr(plan.explore.run, name) for name in of_a_stage}
        assert replace(plan.suppress.run, init_lora=None, **lengths) == plan.explore.run
