"""The experiment on masked flow matching: its plan, its cells on the tiny pipeline, its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from divrl_core.config import LoraConfig, ModelConfig
from divrl_core.config_cfm import CfmConfig, CfmDataConfig, CfmRunConfig, ObjectiveConfig
from divrl_core.evaluation.cfm_plan import ATTENTION, FULL, MASKED, MODULATION, TEXT_ONLY, cfm_plan
from divrl_core.evaluation.cfm_report import ORDER, expectations, page, write_cfm_report
from divrl_core.evaluation.demo_settings import DemoEvaluation
from divrl_core.evaluation.experiment import Sources, run_experiment
from divrl_core.evaluation.experiment_plan import BASE, Arm, ExperimentPlan
from divrl_core.evaluation.experiment_results import Cell, Results
from divrl_core.training.data import RunData
from train_cli.config_file import resolve

from .toy_references import ToyReferences, tiny_stage

ROOT = Path(__file__).resolve().parents[2]
CFM = ROOT / "docs" / "cfm"


def test_the_arms_differ_in_what_they_are_named_after_alone() -> None:
    plan = cfm_plan(seed=3, threads=None)
    masked = plan.arm(MASKED).config
    assert isinstance(masked, CfmConfig)
    assert plan.arm(FULL).config == replace(masked, objective=replace(masked.objective, loss="full"))
    assert plan.arm(TEXT_ONLY).config == replace(masked, model=replace(masked.model, layout="none"))
    for name, targets in ((ATTENTION, "attention"), (MODULATION, "attention+ffn+modulation")):
        assert plan.arm(name).config == replace(masked, lora=replace(masked.lora, targets=targets))
        assert plan.judge(name).lora.targets == targets
    assert [arm.name for arm in plan.line_of("suppress")] == [MASKED, "explore", "suppress"]
    assert {plan.judge(name).model.layout for name in (BASE, TEXT_ONLY)} == {"none"}
    assert plan.judge("suppress").model.layout == "width"
    assert set(plan.names) == set(ORDER)


@pytest.fixture(scope="module")
def finished(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path | None]:
    explore = tiny_stage(tiny_pipeline, "explore")
    model = replace(explore.model, layout="width")
    lora = LoraConfig(rank=explore.lora.rank, alpha=float(explore.lora.rank))
    explore = replace(explore, model=model, lora=lora)
    masked = CfmConfig(
        model=ModelConfig(**{**vars(model), "guidance_scale": 1.0}),
        lora=lora,
        data=CfmDataConfig(pocket_subjects=2, held_out_pairs=4),
        objective=ObjectiveConfig(batch_size=2),
        run=CfmRunConfig(updates=2, validate_every_updates=2, sample_every_updates=2, sample_steps=1),
    )
    plan = ExperimentPlan(
        seed=0,
        arms=(
            Arm(name=MASKED, config=masked),
            Arm(name="explore", config=explore, starts_from=MASKED),
        ),
        evaluation=DemoEvaluation(
            seed=7, references=2, pictures=4, steps=2, shown_references=2, shown_pictures=2
        ),
        judged_as=explore,
        judged_otherwise={BASE: replace(explore, model=replace(model, layout="none"))},
        shown=(BASE, MASKED, "explore"),
        has_report=False,
    )
    sources = Sources(
        data=RunData(train=ToyReferences(("ant", "bee")), held_out=ToyReferences(("cat", "dog"))),
        last_references=ToyReferences(("elk", "fox")),
    )
    output = tmp_path_factory.mktemp("experiment") / "cfm"
    written = run_experiment(output, [plan], model=tiny_pipeline, sources=sources, write=write_cfm_report)
    return output, written


def test_an_experiment_leaves_a_cell_a_model_and_a_page_with_figures(
    finished: tuple[Path, Path | None],
) -> None:
    output, written = finished
    cells = {path.stem: json.loads(path.read_text()) for path in (output / "cells" / "seed-0").iterdir()}
    assert set(cells) == {BASE, MASKED, "explore"}
    assert {row["arm"] for row in cells["explore"]["curve"]} == {MASKED, "explore"}
    assert [row["validation_loss"] is not None for row in cells[MASKED]["curve"]] == [True, True]
    assert "explore.model.layout" in cells["explore"]["made_with"]["parts"]
    assert cells[MASKED]["made_with"]["parts"]["masked.run.cache"] is None
    assert written is not None
    text = written.read_text(encoding="utf-8")
    for name in ("planes.png", "sheet.jpg"):
        assert (output / name).stat().st_size > 5000 and name in text
    assert "masked − base" in text and "explore − masked" in text


def cell(model: str, seed: int, vsm: float) -> Cell:
    samples = tuple(
        {"reference_id": f"r{place}", "prompt": "p", "sample": 0, "nssm": 0.4, "vsm": vsm + 0.01 * place}
        for place in range(4)
    )
    return Cell(
        model=model,
        seed=seed,
        summary={"vsm": vsm, "nssm": 0.4, "n": 4, "n_references": 4, "steps": 28},
        settings={"consistency_cutoff": 0.8, "backbone": "lite0"},
        samples=samples,
        curve=(),
    )


def test_a_difference_smaller_than_the_seeds_spread_is_not_called_known() -> None:
    def verdict(gains: tuple[float, ...]) -> bool | None:
        cells = [cell(BASE, seed, 0.2) for seed in range(len(gains))]
        cells += [cell(MASKED, seed, 0.2 + gain) for seed, gain in enumerate(gains)]
        return expectations(Results(cells, ORDER))[0].holds

    assert verdict((0.3, 0.32, 0.28)) is True
    assert verdict((-0.3, -0.32, -0.28)) is False
    assert verdict((0.3, -0.25, 0.1)) is None
    assert verdict((0.3,)) is True, "one seed has no spread: the pictures' error alone decides"


def test_the_committed_page_says_what_the_committed_cells_say() -> None:
    results = Results.read(CFM / "cells", ORDER)
    assert results.models, "docs/cfm/cells holds the experiment"
    assert (CFM / "experiment.md").read_text(encoding="utf-8") == page(results, has_sheet=True)


def test_the_shipped_settings_are_those_of_the_masked_arm() -> None:
    config = resolve("cfm", config_file=CFM / "pocket.yaml", kind=CfmConfig)
    masked = cfm_plan(seed=0, threads=None).arm(MASKED).config
    shared = {"save_every_updates": 50, "sample_every_updates": 600}
    assert replace(config, run=replace(config.run, **shared)) == masked
