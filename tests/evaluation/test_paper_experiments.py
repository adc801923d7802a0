"""The paper's ablations at pocket scale: what each arm changes, where it starts, and when a claim holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from divrl_core.config import BackboneConfig, TrainConfig
from divrl_core.evaluation.contest.plan import backbone_settings
from divrl_core.evaluation.experiment_plan import BASE, EXPLORE_UPDATES, SUPPRESS_UPDATES
from divrl_core.evaluation.experiment_results import Cell, Results
from divrl_core.evaluation.experiments import EXPERIMENTS
from divrl_core.evaluation.paper_plan import paper_plan
from divrl_core.evaluation.paper_questions import QUESTIONS, Claim
from divrl_core.evaluation.paper_report import judged, page, seeds_interval, write_paper_report
from divrl_core.pocket.references import PocketReferences
from divrl_core.training.files import write_atomic_json
from divrl_core.training.rewarding import open_rewarder
from train_cli.experiment import FOLDERS, PAPERS


def config_of(question: str, arm: str) -> TrainConfig:
    config = paper_plan(question, seed=0, threads=None).arm(arm).config
    assert isinstance(config, TrainConfig)
    return config


def resolved(config: TrainConfig) -> str:
    """All settings in words, the backbone's own in the place of those that nobody gave."""
    backbone = config.reward.backbone
    plain = replace(config, reward=replace(config.reward, backbone=BackboneConfig(name=backbone.name)))
    return f"{plain} {backbone_settings(backbone)}"


def test_every_question_is_a_command_of_its_own_and_they_share_a_folder() -> None:
    assert tuple(QUESTIONS) == PAPERS and set(PAPERS) < set(EXPERIMENTS)
    assert {FOLDERS[name] for name in PAPERS} == {"docs/paper-experiments"}


@pytest.mark.parametrize("question", QUESTIONS)
def test_claims_are_of_models_that_are_made_and_each_starts_from_one_that_is_there(question: str) -> None:
    plan = paper_plan(question, seed=3, threads=None)
    for claim in QUESTIONS[question].claims:
        assert {claim.after, claim.before} <= set(plan.names)
    assert all(arm.starts_from is None or arm.starts_from in plan.names for arm in plan.arms)
    assert plan.names == QUESTIONS[question].order
    alike = {resolved(config_of(question, arm.name)) for arm in plan.arms}
    assert len(alike) == len(plan.arms), "no two arms are the same, nor by what a backbone takes of its own"


def test_arms_change_what_their_question_asks_and_nothing_else() -> None:
    common = config_of("threshold", "suppress")
    low = config_of("threshold", "suppress-s0.4")
    assert low.reward.gates == ("vsm>=0.4",) and replace(low, reward=common.reward) == common
    heavy = config_of("lambda", "suppress-lambda50")
    assert replace(heavy, reward=common.reward) == common and heavy.reward.penalty_weight == 50
    held = config_of("kl", "explore-kl")
    assert held.grpo.kl_weight == 0.1 and replace(held, grpo=config_of("kl", "explore").grpo) == config_of(
        "kl", "explore"
    )
    near = config_of("chance", "suppress-lambda10.01").reward.penalty_weight
    assert near == 10.01 and common.reward.penalty_weight == 10, "the control for chance"
    assert config_of("features", "suppress-full").reward.backbone.nssm_pool == 1
    assert paper_plan("features", seed=0, threads=None).arm("suppress-full").starts_from == "explore-full"
    assert paper_plan("threshold", seed=0, threads=None).arm("suppress-s0.4").starts_from == "explore"


def test_on_the_full_grid_nssm_is_smaller_and_vsm_the_same_so_that_lambda_weighs_more() -> None:
    figures = PocketReferences(split="held_out", count=2)
    picture = figures.load(figures.reference_id(1), 128).image[None]
    scores = {}
    for arm in ("suppress", "suppress-full"):
        rewarder = open_rewarder(
            config_of("features", arm).reward, size_px=128, model_device=torch.device("cpu")
        )
        scores[arm] = rewarder.scores(picture, figures, figures.reference_id(0))
    assert torch.equal(scores["suppress"].vsm, scores["suppress-full"].vsm)
    assert 0.5 < float(scores["suppress-full"].nssm / scores["suppress"].nssm) < 0.95


def test_one_stage_makes_as_many_updates_as_two_from_the_base_for_the_same_reward() -> None:
    alone = config_of("start", "suppress-from-base")
    assert alone.run.updates == EXPLORE_UPDATES + SUPPRESS_UPDATES and alone.run.init_lora is None
    assert alone.reward == config_of("start", "suppress").reward
    assert paper_plan("start", seed=0, threads=None).arm("suppress-from-base").starts_from is None


def cell(model: str, seed: int, vsm: float) -> Cell:
    samples = tuple(
        {"reference_id": f"r{place}", "prompt": "p", "sample": 0, "nssm": 0.3, "vsm": vsm + 0.01 * (place % 3),
         "clean": 1.0, "pose_change_deg": 5.0, "identity_error": 0.1}
        for place in range(12)
    )  # fmt: skip
    summary = {"nssm": 0.3, "vsm": vsm, "n": 12, "n_references": 12, "clean_share": 1.0}
    summary |= {"consistency_ratio": vsm, "diversity_over_consistency": 0.3}
    settings = {"consistency_cutoff": 0.8, "backbone": "pocket"}
    return Cell(model=model, seed=seed, summary=summary, settings=settings, samples=samples, curve=())


def results_of(*later: float) -> Results:
    """Of each seed a model at VSM .7 and one at another."""
    cells = [cell("suppress-s0.4", seed, 0.7) for seed in range(len(later))]
    cells += [cell("suppress-s0.7", seed, vsm) for seed, vsm in enumerate(later)]
    return Results(cells, QUESTIONS["threshold"].order)


def claim_of(sign: int, margin: float = 0.0) -> Claim:
    return Claim("so it is", "suppress-s0.7", "suppress-s0.4", "vsm", sign, margin)


@pytest.mark.parametrize(
    ("sign", "margin", "later", "holds"),
    [
        (1, 0, (0.9, 0.9, 0.91), True),
        (1, 0, (0.5, 0.5, 0.51), False),
        (-1, 0, (0.5, 0.5, 0.51), True),
        (1, 0, (0.9, 0.75, 0.71), None),  # all above, but by too different amounts
        (1, 0, (0.9,), None),
        (0, 0.05, (0.7, 0.71, 0.7), True),
        (0, 0.05, (0.9, 0.9, 0.91), False),
        (0, 0.05, (0.72, 0.60, 0.78), None),  # nothing is known, and that is not alike
    ],
)
def test_a_claim_is_judged_by_the_interval_over_seeds(
    sign: int, margin: float, later: tuple[float, ...], holds: bool | None
) -> None:
    found = judged(claim_of(sign, margin), results_of(*later))
    assert found.holds is holds and f"seeds {later[0] - 0.7:+.3f}" in found.measured


def test_the_interval_over_seeds_is_students() -> None:
    found = results_of(0.8, 0.9, 0.85).paired("suppress-s0.7", "suppress-s0.4")["vsm"]
    assert seeds_interval(found) == pytest.approx(
        (0.15 - 0.12421, 0.15 + 0.12421), abs=1e-4
    )  # 4.3027 * .05 / 3**.5


def test_seeds_that_agree_without_an_interval_are_told() -> None:
    seeds = results_of(0.9, 0.75, 0.71)
    assert judged(claim_of(1), seeds).measured.endswith("every seed for it")
    assert judged(claim_of(-1), seeds).measured.endswith("every seed against it")
    assert "every seed" not in judged(claim_of(1), results_of(0.8, 0.69, 0.8)).measured


def test_a_page_and_its_picture_are_written_from_the_cells_alone(tmp_path: Path) -> None:
    for one in (cell(BASE, 0, 0.9), cell(BASE, 1, 0.8), cell("suppress-s0.4", 0, 0.7)):
        content = {**vars(one), "made_with": {}}
        write_atomic_json(tmp_path / "cells" / f"seed-{one.seed}" / f"{one.model}.json", content)
    assert write_paper_report("threshold", tmp_path / "cells", tmp_path) == tmp_path / "threshold.md"
    assert "(threshold.png)" in (tmp_path / "threshold.md").read_text()
    first = (tmp_path / "threshold.png").read_bytes()
    with Image.open(tmp_path / "threshold.png") as drawn:
        assert drawn.width > 2 * drawn.height * 0.9
    write_paper_report("threshold", tmp_path / "cells", tmp_path)
    assert (tmp_path / "threshold.png").read_bytes() == first
    assert write_paper_report("kl", tmp_path / "nothing", tmp_path) is None


def test_what_is_not_made_yet_is_not_judged() -> None:
    results = Results([cell(BASE, 0, 0.9), cell("suppress-s0.4", 0, 0.7)], QUESTIONS["threshold"].order)
    assert judged(QUESTIONS["threshold"].claims[0], results).holds is None
    assert "not made yet" in page("threshold", results)
