"""The inputs that turn features into scores, the same on every node that scores."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .backbone import BACKBONE

if TYPE_CHECKING:
    from ..divrl_core.rewards.score import ScoreSettings

OWN = -1.0  # "as the backbone was calibrated"


def compared_inputs() -> list[Any]:
    """What finished pictures are compared with, where the subject is, and by what."""
    return [
        io.Image.Input("reference", tooltip="One picture of the subject."),
        BACKBONE.Input("backbone", tooltip="From Load Reward Backbone."),
        io.Mask.Input(
            "reference_mask",
            optional=True,
            tooltip="Where the subject is in the reference (1 = subject). Without it the whole picture counts.",
        ),
        io.Mask.Input(
            "image_masks",
            optional=True,
            tooltip="Where the subject is in the pictures: one mask, or one each. VSM then counts only there.",
        ),
    ]


def gate_inputs(*, penalty_changes: str = "the reward") -> list[Any]:
    """The gate s and the penalty's weight lambda; `penalty_changes` says what that is good for on this node."""
    return [
        io.Float.Input(
            "gate",
            default=OWN,
            min=-1.0,
            max=1.0,
            step=0.01,
            tooltip="s: the least VSM (share of matched places that look the same) to pass. -1: the backbone's own.",
        ),
        io.Float.Input(
            "penalty",
            default=5.0,
            min=0.0,
            max=1000.0,
            step=0.1,
            advanced=True,
            tooltip=f"lambda: weight of the penalty below the gate in {penalty_changes}, nSSM - lambda (s - VSM)^2.",
        ),
    ]


def threshold_inputs() -> list[Any]:
    """What counts as a match and as agreement."""
    return [
        io.Float.Input(
            "tau_s",
            default=OWN,
            min=-1.0,
            max=0.99,
            step=0.01,
            advanced=True,
            tooltip="Similarity by meaning above which two places match. -1: the backbone's own.",
        ),
        io.Float.Input(
            "tau_v",
            default=OWN,
            min=-1.0,
            max=0.99,
            step=0.01,
            advanced=True,
            tooltip="Similarity of looks above which a match agrees. -1: the backbone's own.",
        ),
        io.Int.Input(
            "pooling",
            default=0,
            min=0,
            max=8,
            advanced=True,
            tooltip="Side of the blocks of cells averaged before nSSM; 1: none, 0: the backbone's own.",
        ),
    ]


def score_settings(backbone: Any, tau_s: float, tau_v: float, pooling: int) -> ScoreSettings:
    """The backbone's settings with the user's values in their place."""
    given = {"tau_s": tau_s, "tau_v": tau_v}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value != OWN}
    if pooling:
        changes["nssm_pool"] = pooling
    calibrated: ScoreSettings = backbone.settings.score
    return replace(calibrated, **changes)


def gate_of(backbone: Any, gate: float) -> float:
    """The gate asked for, else the backbone's own. Raises ValueError for one between -1 and 0."""
    if gate == OWN:
        return float(backbone.settings.gate)
    if gate < 0:
        raise ValueError(f"gate: a VSM between 0 and 1, or -1 for the backbone's own; got {gate:g}")
    return gate
