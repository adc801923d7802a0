"""From pictures to rewards, through the real backbone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from divrl_core.config import RewardConfig
from divrl_core.models.features.base import Backbone, load_backbone
from divrl_core.rewards.score import Scores
from divrl_core.training.references import PromptPair, Reference
from divrl_core.training.rewarding import REWARDS, Rewarder

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
    reward = rewarder(backbone, "nssm").reward(pictures(), REFERENCES, ANT)
    assert reward.nssm[0] == pytest.approx(0, abs=1e-5) and reward.vsm[0] == 1
    assert (reward.nssm[1:] > 0.05).all()
    assert torch.equal(reward.total, reward.nssm)


def test_scores_of_many_references_in_one_pass_equal_those_taken_one_by_one(backbone: Backbone) -> None:
    ours = rewarder(backbone, "nssm")
    together = ours.scores_each(pictures(), REFERENCES, ["ant", "bee", "bee"])
    apart = [
        ours.scores(pictures()[row : row + 1], REFERENCES, name)
        for row, name in enumerate(["ant", "bee", "bee"])
    ]
    assert torch.allclose(together.nssm, torch.cat([part.nssm for part in apart]), atol=1e-4)


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
    config = RewardConfig(kind=kind, penalty_weight=5.0, vsm_weight=0.75)  # type: ignore[arg-type]
    reward = REWARDS[kind](torch.zeros(2, 3, 8, 8), scores([0.5, 0.5], [0.7, 0.2]), config, 0.6)
    assert reward.total.tolist() == pytest.approx(expected)


def test_the_gate_is_the_settings_own_or_else_the_backbones(backbone: Backbone) -> None:
    assert rewarder(backbone, "gated").gate == backbone.settings.gate
    assert rewarder(backbone, "gated", gate=0.123).gate == 0.123


def test_brightness_is_the_mean_pixel_and_measures_nothing_else(backbone: Backbone) -> None:
    images = torch.stack([torch.full((3, 8, 8), 0.25), torch.full((3, 8, 8), 0.75)])
    reward = rewarder(backbone, "brightness").reward(
        images, REFERENCES, PromptPair("x#0", "no such reference is looked at", "")
    )
    assert reward.total.tolist() == [0.25, 0.75]
    assert reward.nssm.isnan().all() and reward.vsm.isnan().all()


@pytest.mark.parametrize("kind", ["gated", "vsm", "linear"])
def test_a_reward_that_needs_an_undefined_score_is_undefined_and_not_zero(kind: str) -> None:
    config = RewardConfig(kind=kind)  # type: ignore[arg-type]
    reward = REWARDS[kind](torch.zeros(2, 3, 8, 8), scores([0.5, 0.5], [float("nan"), 0.5]), config, 0.6)
    assert reward.total.isnan().tolist() == [True, False]


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
