"""The questions of the paper's ablations at pocket scale, and four of ours: what changes, and what is claimed of it.

threshold    s of the gate (arXiv:2606.23950, table 3)
lambda       weight of the penalty (table 4)
features     the grid of nSSM: blocks of 2 x 2, each cell, or each cell four times (figure 8)
backbone     EfficientNet-Lite2 in place of Lite0 (table 2)
kl           the hold on the policy of the start
advantages   rewards divided by their group's spread or by the update's
start        suppress from explore's LoRA or, for as many updates as both, from the base
chance       settings a thousandth apart, the control of all others
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import BackboneConfig
from .experiment_plan import BASE

EXPLORE, SUPPRESS = "explore", "suppress"
Changes = Mapping[str, Mapping[str, Any]]
"""Section of settings -> setting -> value."""


@dataclass(frozen=True)
class Claim:
    """What is claimed: `after` less `before` of a measure lies above 0 (sign 1), below (-1), or within `margin` (0)."""

    text: str
    after: str
    before: str
    measure: str
    sign: int
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Question:
    """One ablation. source: of the claims.

    arms: what each changes, by name. Those named explore start from the base; those named suppress from the explore of
    their own name or, without one, from the common explore; `from_base`: those that start from the base all the same.
    has_common: whether the demo's own explore and suppress are among the models.
    """

    title: str
    about: str
    source: str
    arms: Mapping[str, Changes]
    claims: tuple[Claim, ...]
    from_base: tuple[str, ...] = ()
    has_common: bool = True

    @property
    def changed(self) -> dict[str, Changes]:
        """Every trained model with what it changes, in the order they are made."""
        common: dict[str, Changes] = {EXPLORE: {}, SUPPRESS: {}} if self.has_common else {}
        return {**common, **self.arms}

    @property
    def order(self) -> tuple[str, ...]:
        """Every model in the order of the page."""
        return (BASE, *self.changed)


def _gate(value: float) -> Changes:
    return {"reward": {"gates": (f"vsm>={value:g}",)}}


def _penalty(value: float) -> Changes:
    return {"reward": {"penalty_weight": value}}


def _backbone(name: str) -> Changes:
    return {"reward": {"backbone": BackboneConfig(name=name)}}  # type: ignore[arg-type]


def _both(name: str, changes: Changes) -> dict[str, Changes]:
    return {f"{EXPLORE}-{name}": changes, f"{SUPPRESS}-{name}": changes}


_FULL: Changes = {"reward": {"backbone": BackboneConfig(name="pocket", nssm_pool=1)}}
_POOLED: Changes = {"reward": {"backbone": BackboneConfig(name="pocket", nssm_pool=4)}}
_KL: Changes = {"grpo": {"kl_weight": 0.1}}
_GLOBAL: Changes = {"grpo": {"advantage_std": "batch"}}
_NUDGED: Changes = {"optim": {"betas": (0.9001, 0.999)}}
_SUPPRESS = f"{SUPPRESS}-"

QUESTIONS: Mapping[str, Question] = {
    "threshold": Question(
        title="The gate's threshold s",
        about="Noisy samples, which training sees, begin suppress at a VSM of .59 to .76: an s of .7 speaks at "
        "once, a lower one when VSM has fallen to it. The demo's own s is .97.",
        source="arXiv:2606.23950, table 3",
        arms={f"{_SUPPRESS}s{value:g}": _gate(value) for value in (0.4, 0.5, 0.6, 0.7)},
        claims=(
            Claim("a higher s keeps more identity", f"{_SUPPRESS}s0.7", f"{_SUPPRESS}s0.4", "vsm", 1),
            Claim("a lower s is more diverse", f"{_SUPPRESS}s0.4", f"{_SUPPRESS}s0.7", "nssm", 1),
        ),
    ),
    "lambda": Question(
        title="The penalty's weight lambda",
        about="At the demo's s of .97; the demo's own lambda is 10.",
        source="arXiv:2606.23950, table 4",
        arms={f"{_SUPPRESS}lambda{value:g}": _penalty(value) for value in (0.5, 5.0, 50.0)},
        claims=(
            Claim(
                "lambda .5 is more diverse than 5", f"{_SUPPRESS}lambda0.5", f"{_SUPPRESS}lambda5", "nssm", 1
            ),
            Claim(
                "lambda .5 keeps less identity than 5",
                f"{_SUPPRESS}lambda0.5",
                f"{_SUPPRESS}lambda5",
                "vsm",
                -1,
            ),
            Claim(
                "lambda 50 keeps less identity than 5, being unstable",
                f"{_SUPPRESS}lambda50",
                f"{_SUPPRESS}lambda5",
                "vsm",
                -1,
            ),
        ),
    ),
    "features": Question(
        title="The grid of the features",
        about="In the demo nSSM sees each of its network's 12 x 12 cells once; `pooled`: blocks of 2 x 2 of them "
        "averaged, 6 x 6, as the paper pools 48 x 48 to 24 x 24. `full`: on the backbone's grid of 24 x 24, where "
        "every cell of the network stands four times. Two copies of a cell are alike in every picture, so nSSM is "
        "smaller there by a factor of about .75 (`pooled`, .8), while VSM and so the penalty stay the same.",
        source="arXiv:2606.23950, section 4.4 and figure 8",
        arms={**_both("pooled", _POOLED), **_both("full", _FULL)},
        claims=(
            Claim(
                "pooled features leave more pictures whole (fewer artefacts) after explore",
                "explore-pooled",
                EXPLORE,
                "clean_share",
                1,
            ),
            Claim("and after suppress", "suppress-pooled", SUPPRESS, "clean_share", 1),
            Claim(
                "so does 12 x 12 beside the full grid, after explore",
                EXPLORE,
                "explore-full",
                "clean_share",
                1,
            ),
            Claim("and after suppress", SUPPRESS, "suppress-full", "clean_share", 1),
        ),
    ),
    "backbone": Question(
        title="A second backbone",
        about="Paid by EfficientNet-Lite0 and by Lite2, gate .97 of either's VSM; judged by the pocket's own heads.",
        source="arXiv:2606.23950, table 2 (there DINOv2 in place of MTG)",
        arms={**_both("lite0", _backbone("lite0")), **_both("lite2", _backbone("lite2"))},
        has_common=False,
        claims=(
            Claim(
                "another backbone does as well (within .05): diversity over consistency",
                "suppress-lite2",
                "suppress-lite0",
                "diversity_over_consistency",
                0,
                0.05,
            ),
            Claim(
                "and consistency ratio (within .1)",
                "suppress-lite2",
                "suppress-lite0",
                "consistency_ratio",
                0,
                0.1,
            ),
        ),
    ),
    "kl": Question(
        title="KL",
        about="Weight .1 as the paper says (its public configuration has 0): explore holds on to the base, suppress to "
        "explore's LoRA.",
        source="ours",
        arms=_both("kl", _KL),
        claims=(
            Claim("KL leaves more pictures whole after explore", "explore-kl", EXPLORE, "clean_share", 1),
            Claim("KL costs diversity after suppress", "suppress-kl", SUPPRESS, "nssm", -1),
        ),
    ),
    "advantages": Question(
        title="Advantages by group or by update",
        about="`global`: rewards less their group's mean, divided by the spread of the whole update in place of the "
        "group's.",
        source="ours",
        arms=_both("global", _GLOBAL),
        claims=(
            Claim(
                "the group's own spread learns faster: nSSM after explore",
                EXPLORE,
                "explore-global",
                "nssm",
                1,
            ),
        ),
    ),
    "start": Question(
        title="Two stages or one",
        about="`suppress-from-base`: the gated reward from the base for as many updates as both stages together.",
        source="arXiv:2606.23950, section 3.4: the stages find what one reward does not",
        arms={f"{_SUPPRESS}from-base": {}},
        claims=(
            Claim("two stages are more diverse", SUPPRESS, f"{_SUPPRESS}from-base", "nssm", 1),
            Claim(
                "and among consistent pictures",
                SUPPRESS,
                f"{_SUPPRESS}from-base",
                "diversity_over_consistency",
                1,
            ),
            Claim(
                "ours: at no cost in whole pictures (within .05)",
                SUPPRESS,
                f"{_SUPPRESS}from-base",
                "clean_share",
                0,
                0.05,
            ),
            Claim(
                "nor in consistency ratio (within .05)",
                SUPPRESS,
                f"{_SUPPRESS}from-base",
                "consistency_ratio",
                0,
                0.05,
            ),
        ),
        from_base=(f"{_SUPPRESS}from-base",),
    ),
    "chance": Question(
        title="What chance alone does",
        about="Settings that differ by nothing that matters: lambda 9.99 and 10.01 for the demo's 10, from the same "
        "explore; `nudged`: AdamW's first beta .9001 for .9 in both stages. Same seeds, figures and noise.",
        source="ours: what is smaller than this says nothing in the other pages",
        arms={
            **{f"{_SUPPRESS}lambda{value:g}": _penalty(value) for value in (9.99, 10.01)},
            **_both("nudged", _NUDGED),
        },
        claims=(
            Claim(
                "chance changes little: nSSM after suppress, a thousandth more lambda (within .05)",
                f"{_SUPPRESS}lambda10.01",
                SUPPRESS,
                "nssm",
                0,
                0.05,
            ),
            Claim(
                "and whole pictures, a thousandth less (within .1)",
                f"{_SUPPRESS}lambda9.99",
                SUPPRESS,
                "clean_share",
                0,
                0.1,
            ),
            Claim("nSSM after a nudged explore (within .05)", "explore-nudged", EXPLORE, "nssm", 0, 0.05),
            Claim("and after both stages nudged (within .05)", "suppress-nudged", SUPPRESS, "nssm", 0, 0.05),
            Claim(
                "and whole pictures after both (within .1)",
                "suppress-nudged",
                SUPPRESS,
                "clean_share",
                0,
                0.1,
            ),
        ),
    ),
}
