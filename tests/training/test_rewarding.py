"""From pictures to rewards, through the real backbone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from divrl_core.config import RewardConfig
from divrl_core.config_reward import SecondBackboneConfig
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.models.features.lite0 import Lite0Backbone
from divrl_core.rewards.score import Scores
from divrl_core.training.references import PromptPair, Reference
from divrl_core.training.reward_formula import formula_total, measures_in
from divrl_core.training.rewarding import Rewarder

from .tiny_run import ToyReferences

SIZE_PX = 64
REFERENCES = ToyReferences(("ant", "bee"))
ANT = REFERENCES.pairs[0]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone(RewardConfig().backbone)


def rewarder(backbone: Backbone, kind: str, **changes: object) -> Rewarder:
    return Rewarder(RewardConfig(kind=kind, **changes), backbone, size_px=SIZE_PX)  # type: ignore[arg-type]


def pictures() -> Tensor:
    """The reference itself, another subject, and the reference turned upside down."""
    ant, bee = (REFERENCES.load(name, SIZE_PX).image for name in ("ant", "bee"))
    return torch.stack([ant, bee, ant.flip(1)])


def scores(nssm: list[float], vsm: list[float]) -> Scores:
    return Scores(torch.tensor(nssm), torch.tensor(vsm), torch.ones(len(nssm), dtype=torch.long))


def test_the_reference_itself_has_no_structural_difference_and_full_identity(backbone: Backbone) -> None:
    reward = rewarder(backbone, "nssm", recipe="paper").reward(pictures(), REFERENCES, ANT)
    assert reward.nssm[0] == pytest.approx(0, abs=1e-5) and reward.vsm[0] == 1
    assert (reward.nssm[1:] > 0.05).all()
    assert torch.equal(reward.total, reward.nssm)
    default = rewarder(backbone, "nssm").reward(pictures(), REFERENCES, ANT)
    assert torch.equal(default.total, default.more["nssm_cropped"])
    assert default.total[0] == pytest.approx(0, abs=1e-5) and (default.total[1:] > 0.05).all()


def test_scores_of_many_references_in_one_pass_equal_those_taken_one_by_one(backbone: Backbone) -> None:
    ours = rewarder(backbone, "nssm")
    together, features = ours.scores_each(pictures(), REFERENCES, ["ant", "bee", "bee"])
    apart = [
        ours.scores(pictures()[row : row + 1], REFERENCES, name)
        for row, name in enumerate(["ant", "bee", "bee"])
    ]
    assert torch.allclose(together.nssm, torch.cat([part.nssm for part in apart]), atol=1e-4)
    assert len(features) == 3 and set(together.more) == {"nssm_cropped", "matched", "coverage", "extent"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # nSSM .5 and .5, VSM .7 and .2, gate .6: below it the penalty is 5 (.6 - .2)^2 = .8
        ("nssm", [0.5, 0.5]),
        ("gated", [0.5, -0.3]),
        ("vsm", [0.7, 0.2]),
        ("linear", [0.75 * 0.7 + 0.25 * 0.5, 0.75 * 0.2 + 0.25 * 0.5]),
    ],
)
def test_each_named_reward_is_its_formula(kind: str, expected: list[float]) -> None:
    config = RewardConfig(kind=kind, recipe="paper", penalty_weight=5.0, vsm_weight=0.75)  # type: ignore[arg-type]
    total = formula_total(config, scores([0.5, 0.5], [0.7, 0.2]).by_name, {"vsm": 0.6})
    assert total.tolist() == pytest.approx(expected)


def test_the_gate_is_the_settings_own_or_else_the_backbones(backbone: Backbone) -> None:
    assert rewarder(backbone, "gated").gates == {"vsm": backbone.settings.gate}
    assert rewarder(backbone, "gated", gate=0.123).gates == {"vsm": 0.123}
    assert rewarder(backbone, "gated", gates=("vsm", "coverage>=.4")).gates == {
        "vsm": backbone.settings.gate,
        "coverage": 0.4,
    }


def test_structure_and_gates_are_what_the_settings_name() -> None:
    config = RewardConfig(
        kind="gated", structure="matched", gates=("coverage>=0.5",), penalty_weight=2.0, structure_cap=0.3
    )
    assert measures_in(config) == {"matched", "coverage"}
    measures = {"matched": torch.tensor([0.2, 0.9, 0.2]), "coverage": torch.tensor([0.5, 0.6, 0.1])}
    # .9 is capped at .3; a coverage .4 below its gate costs 2 * .16
    total = formula_total(config, measures, {"coverage": 0.5})
    assert total.tolist() == pytest.approx([0.2, 0.3, 0.2 - 0.32])


def test_the_reward_of_a_run_pays_for_the_measures_it_names(backbone: Backbone) -> None:
    ours = rewarder(backbone, "gated", structure="nssm_cropped", gates=("extent>=0.9",), penalty_weight=1.0)
    reward = ours.reward(pictures(), REFERENCES, ANT)
    assert ours.more_names == ("extent", "nssm_cropped") == tuple(sorted(reward.more))
    gap = (0.9 - reward.more["extent"]).clamp_min(0)
    assert torch.allclose(reward.total, reward.more["nssm_cropped"] - gap**2, equal_nan=True)
    assert reward.total[0].abs() < 1e-4


def test_a_second_backbone_serves_the_gate_and_a_held_out_one_is_only_reported(backbone: Backbone) -> None:
    config = RewardConfig(
        kind="gated",
        gates=("second.vsm", "second.extent>=0.5"),
        second_backbone=SecondBackboneConfig(name="lite0", tau_s=0.6),
    )
    loaded = load_backbone(config.second_backbone)
    assert isinstance(loaded, Lite0Backbone)
    second = loaded.with_settings(replace(loaded.settings, gate=0.9))
    ours = Rewarder(config, backbone, size_px=SIZE_PX, second=second, held_out=second)
    assert ours.gates == {"second.vsm": 0.9, "second.extent": 0.5}
    reward = ours.reward(pictures(), REFERENCES, ANT)
    alone = Rewarder(RewardConfig(), second, size_px=SIZE_PX).reward(pictures(), REFERENCES, ANT)
    assert torch.equal(reward.more["second.vsm"], alone.vsm)
    each, _ = ours.scores_each(pictures(), REFERENCES, ["ant"] * 3)
    assert torch.allclose(each.more["held_out.nssm"], alone.nssm, atol=1e-4)
    assert not any(name.startswith("held_out.") for name in reward.more)
    assert set(ours.sources) == {"", "second.", "held_out."}


def test_novelty_of_a_group_is_low_for_copies_of_each_other(backbone: Backbone) -> None:
    ours = Rewarder(RewardConfig(), backbone, size_px=SIZE_PX, novelty_scale=0.2)
    assert ours.wants_groups and not ours.takes_groups
    ant, _, turned = pictures()
    reward = ours.reward(torch.stack([ant, ant, ant, turned]), REFERENCES, ANT)
    novelty = reward.more["novelty"]
    assert torch.allclose(novelty[:3], novelty[0].expand(3), atol=1e-4)
    assert novelty[3] > 2 * novelty[0]
    with pytest.raises(ValueError, match=r"grpo\.diversity_weight needs a reward that is measured"):
        Rewarder(RewardConfig(kind="brightness"), backbone, size_px=SIZE_PX, novelty_scale=0.2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gates": ("coverage",)}, "coverage has no gate of its own; write coverage>=NUMBER"),
        ({"gates": ("sharpness>=.5",)}, "expected MEASURE>=NUMBER with vsm, coverage, extent, cosine"),
        ({"gates": ()}, "needs different measures, at least one"),
        ({"gates": ("vsm", "vsm>=.5")}, "needs different measures"),
        ({"gates": ("vsm",), "gate": 0.5}, "reward.gate=0.5 and reward.gates exclude each other"),
        ({"gates": ("second.vsm",)}, "set reward.second_backbone.name"),
        ({"kind": "vsm", "structure_cap": 0.5}, "structure_cap says nothing with reward.kind=vsm"),
    ],
)
def test_gates_that_cannot_be_meant_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardConfig(**{"kind": "gated", **changes})  # type: ignore[arg-type]


def test_a_gate_on_the_cosine_needs_a_backbone_that_has_one(backbone: Backbone) -> None:
    ours = rewarder(backbone, "gated", gates=("cosine>=0.5",))
    with pytest.raises(ValueError, match="needs a backbone that has a vector"):
        ours.reward(pictures(), REFERENCES, ANT)


def test_brightness_is_the_mean_pixel_and_measures_nothing_else(backbone: Backbone) -> None:
    images = torch.stack([torch.full((3, 8, 8), 0.25), torch.full((3, 8, 8), 0.75)])
    reward = rewarder(backbone, "brightness").reward(
        images, REFERENCES, PromptPair("x#0", "no such reference is looked at", "")
    )
    assert reward.total.tolist() == [0.25, 0.75]
    assert reward.nssm.isnan().all() and reward.vsm.isnan().all()


@pytest.mark.parametrize("kind", ["gated", "vsm", "linear"])
def test_a_reward_that_needs_an_undefined_score_is_undefined_and_not_zero(kind: str) -> None:
    config = RewardConfig(kind=kind, recipe="paper")  # type: ignore[arg-type]
    total = formula_total(config, scores([0.5, 0.5], [float("nan"), 0.5]).by_name, {"vsm": 0.6})
    assert total.isnan().tolist() == [True, False]


def test_an_infinite_reward_is_an_error_that_names_the_term(backbone: Backbone) -> None:
    ours = rewarder(backbone, "gated", penalty_weight=1e39, gate=1.0)
    with pytest.raises(ValueError, match="total of a picture of ant is infinite"):
        ours.reward(pictures(), REFERENCES, ANT)


class CountingReferences:
    """Says how often a reference was decoded."""

    mask_source = "files"

    def __init__(self) -> None:
        self.loads = 0

    @property
    def pairs(self) -> tuple[PromptPair, ...]:
        return REFERENCES.pairs

    def load(self, reference_id: str, size_px: int) -> Reference:
        self.loads += 1
        return REFERENCES.load(reference_id, size_px)


def test_a_reference_is_encoded_once_for_all_its_pictures(backbone: Backbone) -> None:
    references, ours = CountingReferences(), rewarder(backbone, "nssm")
    for _ in range(3):
        ours.reward(pictures(), references, ANT)
    assert references.loads == 1


def test_an_object_too_small_for_the_grid_is_named(backbone: Backbone) -> None:
    reference = REFERENCES.load("ant", SIZE_PX)
    speck = torch.zeros_like(reference.mask)
    speck[:3, :3] = True
    with pytest.raises(ValueError, match="crumb: the mask covers"):
        rewarder(backbone, "nssm").prepare("crumb", Reference(reference.image, speck))
